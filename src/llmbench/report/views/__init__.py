"""What each command says, in no format."""
