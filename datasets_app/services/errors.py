"""What a person can mend about datasets and examples."""


class DatasetError(Exception):
    """The person can mend it; the message says how."""
