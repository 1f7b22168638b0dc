"""What lies on disk: the home folder, the server's directory of users, each account's pins."""
