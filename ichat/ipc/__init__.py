"""What the processes of ichat say to each other: JSON lines over a socket pair the launcher made."""
