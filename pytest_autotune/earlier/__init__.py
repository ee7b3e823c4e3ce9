"""Task files of the earlier autotuner (novitalabs/inference-autotuner), turned into suites with the same meaning."""
