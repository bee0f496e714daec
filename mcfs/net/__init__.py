"""The only code with sockets: listeners, sending, receiving, interfaces."""
