"""How much one message may make us allocate, whoever decodes it.

Every count is also checked against the bytes that remain; these caps bound what a message of honest small elements costs
(an element of three bytes becomes an object of some hundred).
"""

REQUEST_ELEMENT_COUNT_MAX = 100_000
"""Array elements and tagged fields in one request, all levels together: about 40 MB of objects at worst."""

RESPONSE_ELEMENT_COUNT_MAX = 5_000_000
"""The same for a response, whose sender we chose: metadata of some hundred thousand partitions is honest."""

STRING_SIZE_BYTES_MAX = 32_767
"""Kafka's own bound for a string in UTF-8, in compact encoding too."""
