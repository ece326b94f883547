// Writes the .bin files beside it with Apache Kafka's own classes:
//   java -cp 'kafka-clients-4.3.1.jar:lz4-java.jar:snappy-java.jar:zstd-jni.jar:slf4j-api.jar' WriteBatches.java OUT Zookeeper_2k.log

import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.Map;
import org.apache.kafka.common.compress.Compression;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.record.TimestampType;
import org.apache.kafka.common.record.internal.MemoryRecords;
import org.apache.kafka.common.record.internal.RecordBatch;
import org.apache.kafka.common.record.internal.SimpleRecord;

public class WriteBatches {
    public static void main(String[] args) throws Exception {
        byte[] log = Files.readAllBytes(Path.of(args[1]));
        Map<String, Compression> codecs = new LinkedHashMap<>();
        codecs.put("none", Compression.NONE);
        codecs.put("gzip", Compression.gzip().build());
        codecs.put("gzip-level-1", Compression.gzip().level(1).build());
        codecs.put("snappy", Compression.snappy().build());
        codecs.put("lz4", Compression.lz4().build());
        codecs.put("lz4-level-12", Compression.lz4().level(12).build());
        codecs.put("zstd", Compression.zstd().build());
        codecs.put("zstd-level-22", Compression.zstd().level(22).build());
        for (Map.Entry<String, Compression> codec : codecs.entrySet()) {
            int count = codec.getKey().equals("none") ? 40 : 1000;
            MemoryRecords records = MemoryRecords.withRecords(
                RecordBatch.CURRENT_MAGIC_VALUE, 0L, codec.getValue(), TimestampType.CREATE_TIME,
                77L, (short) 3, Integer.MAX_VALUE - 1, 5, false, records(log, count));
            ByteBuffer buffer = records.buffer();
            byte[] bytes = new byte[buffer.remaining()];
            buffer.get(bytes);
            Files.write(Path.of(args[0], codec.getKey() + ".bin"), bytes);
        }
    }

    static SimpleRecord[] records(byte[] log, int count) {
        SimpleRecord[] records = new SimpleRecord[count];
        for (int i = 0; i < count; i++) {
            int start = i % 20 * 90;
            byte[] key = i % 3 == 0 ? null : ("k" + i).getBytes();
            byte[] value = i % 5 == 0 ? null : Arrays.copyOfRange(log, start, start + 90);
            Header[] headers = i % 4 == 0
                ? new Header[] {new RecordHeader("h\u00e9", new byte[] {1, 2}), new RecordHeader("n", (byte[]) null)}
                : new Header[0];
            records[i] = new SimpleRecord(1700000000000L + i * 7, key, value, headers);
        }
        return records;
    }
}
