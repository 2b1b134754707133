"""What a page can say: each file finds one thing in numbers, puts it into words and draws it."""
