"""The only home of Linux calls: processes, and what the kernel tells of them."""
