"""Which version of which model answers: what lies on disk (`store`) and what is loaded (`registry`)."""
