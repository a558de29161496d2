"""The installed Ultralytics, stock or a fork: the classes that its model YAMLs can name, read without importing it."""
