"""What producer, consumer and the replica fetcher share: connections, cluster metadata, admin calls."""
