#!/bin/bash
# Every program of Kafka under its usual name: the other names in this folder are links to this file.
set -euo pipefail
case ${0##*/} in
  kafka-server-start.sh) class=kafka.Kafka ;;
  kafka-storage.sh) class=kafka.tools.StorageTool ;;
  kafka-topics.sh) class=org.apache.kafka.tools.TopicCommand ;;
  kafka-configs.sh) class=kafka.admin.ConfigCommand ;;
  kafka-consumer-groups.sh) class=org.apache.kafka.tools.consumer.group.ConsumerGroupCommand ;;
  kafka-console-consumer.sh) class=org.apache.kafka.tools.consumer.ConsoleConsumer ;;
  kafka-console-producer.sh) class=org.apache.kafka.tools.ConsoleProducer ;;
  *) echo "error: ${0##*/} is not in this image" >&2; exit 1 ;;
esac
# The server says how much memory it wants in its environment; a tool beside it must not take as much.
[ "$class" = kafka.Kafka ] || KAFKA_HEAP_OPTS="-Xmx128m -XX:TieredStopAtLevel=1"
# shellcheck disable=SC2086
exec "$JAVA_HOME/bin/java" $KAFKA_HEAP_OPTS ${KAFKA_JVM_PERFORMANCE_OPTS:--XX:+UseSerialGC} -XX:+ExitOnOutOfMemoryError \
  -Dlog4j2.configurationFile=/etc/kafka/log4j2.xml ${KAFKA_OPTS:-} -cp '/opt/kafka/libs/*' "$class" "$@"
