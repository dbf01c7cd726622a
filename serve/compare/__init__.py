"""A new bundle or server held against the one it is to replace: what differs, and whether it may."""
