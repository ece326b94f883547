"""The log of one partition on disk. Synchronous; touches files only through `penstock.runtime.files`.

Where to begin reading: `log` (what may be read and what is cut off), then `log_writer` (append, sync, roll) and `segment`.

    layout, log_config, errors     names and constants, settings, what can go wrong
    log, log_writer, log_state     the log
    log_reader, log_slice          from an offset to a range of a file
    time_lookup                    from a time to an offset
    segment, index                 one file of batches and its indexes
    segment_indexes                index files held against the log
    segment_files                  open descriptors, bounded for the whole process
    batch_walk, damage             following batches; telling a torn tail from damage
    epoch_cache, producer_state    leader epochs; idempotent producers
    recovery, producer_recovery    from a directory to a log
    checkpoint, data_directory     small text files; the folder of all partitions
    dump                           reading it all without a broker

Knows neither topics nor leaders, replicas, consumers, the network or trio. Times come in as `now_ms`.
"""
