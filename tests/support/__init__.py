"""What tests of several kinds share: processes, foreign clients, hand-made bytes. No test stands here."""
