"""The command line: parse, call, render. Every import that costs time is inside the command that needs it."""
