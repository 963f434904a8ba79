"""The handlers of the API, by subject; each module gives its rows of the endpoint table."""
