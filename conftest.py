"""Settings of this project's own test run; the plugin itself is loaded by its entry point, as for any user."""

pytest_plugins = ["pytester"]
