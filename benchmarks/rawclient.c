// rawclient.c - the floor: a closed loop of streaming completions from one epoll thread, with nothing around it.
//
//   gcc -O2 -Wall -o rawclient rawclient.c
//   ./rawclient PORT STREAMS WARMUP_S WINDOW_S PROMPT_TOKENS OUTPUT_TOKENS
//
// Loads 127.0.0.1:PORT with so many streams, which begin spread evenly over the first half of the warm-up, and goes on
// until every request that was sent inside the window has ended. Prints one JSON object: the window on CLOCK_MONOTONIC,
// requests sent inside it, their TTFT (from the last byte written) and TPOT, tokens that arrived inside it, all tokens,
// CPU seconds. Expects a server that sends one token per event and a usage event last, as truthserver does.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CARRY = 8, READ = 65536 };
static const char EVENT[] = "data: {", END[] = "\r\n0\r\n\r\n";

typedef struct {
  int fd, tokens, left; // events of the answer so far; bytes of the request that the socket has not taken
  double sent, first;
  char carry[CARRY]; // the last bytes, in which an event or the end may begin
  int carried;
} Stream;

static int prompt_tokens, output_tokens, sent_requests, running, failed;
static double window_begin, window_end;
static double *ttfts, *tpots;
static long measured, measured_capacity, tokens_inside, tokens_all;
static char *request;
static int request_length, epoll_fd;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec + t.tv_nsec / 1e9;
}
static void die(const char *what) {
  perror(what);
  exit(1);
}

static void build(void) {
  static const char *words[] = {"old", "man", "sea", "boat", "fish", "sun", "day", "line"};
  char *body = malloc(prompt_tokens * 8 + 512);
  int n = sprintf(body, "{\"model\":\"truth\",\"prompt\":\"");
  n += sprintf(body + n, "request%08d", sent_requests);
  for (int i = 1; i < prompt_tokens; i++)
    n += sprintf(body + n, " %s", words[(i * 7 + sent_requests) % 8]);
  n += sprintf(body + n,
               "\",\"max_tokens\":%d,\"temperature\":0,\"ignore_eos\":true,\"stream\":true,"
               "\"stream_options\":{\"include_usage\":true}}",
               output_tokens);
  request = realloc(request, n + 512);
  request_length = sprintf(request,
                           "POST /v1/completions HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\n"
                           "x-request-id: raw-%d\r\ncontent-length: %d\r\n\r\n%s",
                           sent_requests, n, body);
  free(body);
}

static void begin(Stream *s) {
  build();
  s->tokens = s->carried = 0;
  s->first = 0;
  for (int done = 0; done < request_length;) { // a request fits into the socket: no stream waits for another here
    ssize_t k = send(s->fd, request + done, request_length - done, MSG_NOSIGNAL);
    if (k < 0 && errno != EAGAIN)
      die("send");
    done += k > 0 ? k : 0;
  }
  s->sent = now();
  sent_requests++;
  running++;
}

static void end(Stream *s, double at) {
  running--;
  if (s->tokens != output_tokens)
    failed++;
  if (s->sent < window_begin || s->sent >= window_end)
    return;
  if (measured == measured_capacity) {
    measured_capacity = measured_capacity ? 2 * measured_capacity : 4096;
    ttfts = realloc(ttfts, measured_capacity * sizeof *ttfts);
    tpots = realloc(tpots, measured_capacity * sizeof *tpots);
  }
  ttfts[measured] = s->first - s->sent;
  tpots[measured++] = s->tokens > 1 ? (at - s->first) / (s->tokens - 1) : 0;
}

// returns whether the answer has ended
static int take(Stream *s) {
  static char buffer[CARRY + READ + 1];
  ssize_t k = recv(s->fd, buffer + CARRY, READ, 0);
  double at = now();
  if (k <= 0) {
    if (k < 0 && errno == EAGAIN)
      return 0;
    die("recv");
  }
  char *from = buffer + CARRY - s->carried, *stop = buffer + CARRY + k;
  memcpy(from, s->carry, s->carried);
  int found = 0;
  for (char *p = from; (p = memmem(p, stop - p, EVENT, sizeof EVENT - 1)); p += sizeof EVENT - 1)
    if (p + sizeof EVENT - 1 > buffer + CARRY) // not one that the last bytes held completely
      found++;
  int over = stop - from >= (int)sizeof END - 1 && !memcmp(stop - (sizeof END - 1), END, sizeof END - 1);
  s->carried = stop - from < CARRY ? stop - from : CARRY;
  memcpy(s->carry, stop - s->carried, s->carried);
  found -= over; // the usage comes in one write with the end
  if (found > 0 && !s->first)
    s->first = at;
  s->tokens += found;
  tokens_all += found;
  if (at >= window_begin && at < window_end)
    tokens_inside += found;
  if (over)
    end(s, at);
  return over;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}
static double percentile(const double *ordered, double q) { // Hyndman-Fan type 7, as everywhere here
  double position = (measured - 1) * q / 100;
  long below = position;
  double above = below + 1 < measured ? ordered[below + 1] : ordered[below];
  return ordered[below] + (above - ordered[below]) * (position - below);
}
static double mean(const double *values) {
  double sum = 0;
  for (long i = 0; i < measured; i++)
    sum += values[i];
  return sum / measured;
}

int main(int count, char **arguments) {
  if (count != 7) {
    fprintf(stderr, "usage: rawclient PORT STREAMS WARMUP_S WINDOW_S PROMPT_TOKENS OUTPUT_TOKENS\n");
    return 2;
  }
  int streams = atoi(arguments[2]), begun = 0;
  double warmup = atof(arguments[3]), window = atof(arguments[4]);
  prompt_tokens = atoi(arguments[5]);
  output_tokens = atoi(arguments[6]);
  prctl(PR_SET_TIMERSLACK, 1);
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);
  struct sockaddr_in server = {
      .sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
  epoll_fd = epoll_create1(0);
  Stream *all = calloc(streams, sizeof *all);
  for (int i = 0; i < streams; i++) {
    all[i].fd = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(all[i].fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (connect(all[i].fd, (void *)&server, sizeof server))
      die("connect");
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, all[i].fd, &(struct epoll_event){.events = EPOLLIN, .data.ptr = &all[i]});
  }
  double start = now(), spread = warmup / 2 < 1 ? warmup / 2 : 1;
  window_begin = start + warmup;
  window_end = window_begin + window;
  long unfinished = 0; // requests that were sent inside the window and have not ended
  while (now() < window_end || unfinished) {
    while (begun < streams && now() >= start + spread * begun / streams) {
      begin(&all[begun]);
      unfinished += all[begun].sent >= window_begin && all[begun].sent < window_end;
      begun++;
    }
    struct epoll_event ready[256];
    double until = begun < streams ? start + spread * begun / streams : window_end + 60;
    double pause = until - now();
    if (pause > 0.1)
      pause = 0.1;
    struct timespec timeout = {0, pause > 0 ? (long)(pause * 1e9) : 0};
    int n = epoll_pwait2(epoll_fd, ready, 256, &timeout, NULL);
    for (int i = 0; i < n; i++) {
      Stream *s = ready[i].data.ptr;
      if (!take(s))
        continue;
      unfinished -= s->sent >= window_begin && s->sent < window_end;
      begin(s);
      unfinished += s->sent >= window_begin && s->sent < window_end;
    }
  }
  struct rusage used;
  getrusage(RUSAGE_SELF, &used);
  if (!measured) {
    fprintf(stderr, "no request was sent inside the window\n");
    return 1;
  }
  qsort(ttfts, measured, sizeof *ttfts, by_value);
  printf("{\"begin_s\":%.9f,\"end_s\":%.9f,\"requests\":%ld,\"failed\":%d,\"ttft_p50_s\":%.9f,\"ttft_p99_s\":%.9f,"
         "\"ttft_mean_s\":%.9f,\"tpot_mean_s\":%.9f,\"tokens_per_s\":%.3f,\"tokens\":%ld,\"cpu_s\":%.6f}\n",
         window_begin, window_end, measured, failed, percentile(ttfts, 50), percentile(ttfts, 99), mean(ttfts),
         mean(tpots), tokens_inside / window, tokens_all,
         used.ru_utime.tv_sec + used.ru_stime.tv_sec + (used.ru_utime.tv_usec + used.ru_stime.tv_usec) / 1e6);
  return 0;
}
