"""What windows of random updates would show."""
