import crc32c

from penstock.protocol import checksum


def test_the_function_without_its_package_is_the_one_of_the_package() -> None:
    assert checksum.crc32c(b"123456789") == 0xE3069283
    assert checksum.crc32c(b"6789", checksum.crc32c(b"12345")) == 0xE3069283
    assert checksum.load("not_there")(b"123456789") == 0xE3069283, "another build of the package"
    data = memoryview(bytes(range(256)) * 5)[3:]
    assert checksum.crc32c(data, 7) == crc32c.crc32c(data, 7)
