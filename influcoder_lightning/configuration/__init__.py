"""Every option of the command and the callback, declared once: default, kind, limits, help."""
