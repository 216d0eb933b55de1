"""A log as files that other systems read: signed, and checked back against the log."""
