"""The one configuration: its declaration, how it is read, what is refused, and its documentation."""
