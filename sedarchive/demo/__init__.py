"""The demonstration: what ``sedarchive demo`` trains, archives and analyses."""
