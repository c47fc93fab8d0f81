"""Interchangeable executors: what runs the kernel, or stands in for it."""
