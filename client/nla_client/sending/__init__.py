"""What sending goes by: settings, failures, the way to a server, events; and how tasks and threads wait."""
