//! The ports on which a run that is there to learn can be heard. A socket on every port there is
//! would cost more than the run.

/// Ports with a TCP listener besides those of the document and the well-known ones (1 to 1023).
const HIGHER_TCP_PORTS: &[u16] = &[
    1080,  // SOCKS
    1194,  // OpenVPN
    1433,  // SQL Server
    1521,  // Oracle
    1883,  // MQTT
    2049,  // NFS
    2181,  // ZooKeeper
    2222,  // SSH, unprivileged
    2375,  // Docker
    2376,  // Docker, TLS
    2379,  // etcd
    2380,  // etcd, peers
    3000,  // Gitea, Grafana, servers under development
    3001,  // servers under development
    3128,  // Squid
    3129,  // Squid, TLS
    3268,  // Active Directory's global catalogue
    3269,  // likewise, TLS
    3306,  // MySQL, MariaDB
    3307,  // MySQL, the second
    3389,  // remote desktop
    3478,  // STUN, TURN
    4000,  // servers under development
    4040,  // Spark
    4200,  // Angular
    4222,  // NATS
    4317,  // OpenTelemetry, gRPC
    4318,  // OpenTelemetry, HTTP
    4443,  // HTTPS, unprivileged
    4566,  // LocalStack
    4873,  // Verdaccio
    5000,  // container registries
    5001,  // container registries
    5044,  // Logstash
    5173,  // Vite
    5222,  // XMPP
    5349,  // STUN, TURN, TLS
    5432,  // PostgreSQL
    5433,  // PostgreSQL, the second
    5601,  // Kibana
    5671,  // AMQP, TLS
    5672,  // AMQP
    5984,  // CouchDB
    6333,  // Qdrant
    6334,  // Qdrant, gRPC
    6379,  // Redis
    6380,  // Redis, TLS
    6432,  // PgBouncer
    6443,  // Kubernetes
    6650,  // Pulsar
    7000,  // Cassandra, peers
    7474,  // Neo4j, HTTP
    7687,  // Neo4j
    8000,  // HTTP, unprivileged
    8001,  // likewise
    8008,  // likewise
    8080,  // likewise
    8081,  // likewise, Nexus
    8082,  // Artifactory
    8083,  // InfluxDB, Nexus
    8086,  // InfluxDB
    8088,  // HTTP, unprivileged
    8123,  // ClickHouse
    8125,  // StatsD
    8200,  // Vault
    8222,  // NATS, HTTP
    8333,  // SeaweedFS
    8443,  // HTTPS, unprivileged
    8500,  // Consul
    8545,  // Ethereum
    8880,  // HTTP, unprivileged
    8883,  // MQTT, TLS
    8888,  // Jupyter, HTTP proxies
    8983,  // Solr
    9000,  // ClickHouse, MinIO, SonarQube
    9001,  // MinIO
    9042,  // Cassandra
    9043,  // Cassandra, TLS
    9080,  // HTTP, unprivileged
    9090,  // Prometheus
    9091,  // Prometheus, push
    9092,  // Kafka
    9093,  // Kafka, TLS
    9094,  // Kafka, outside
    9200,  // Elasticsearch
    9300,  // Elasticsearch, peers
    9418,  // git
    9440,  // ClickHouse, TLS
    9443,  // HTTPS, unprivileged
    10000, // Azurite
    10001, // Azurite
    10250, // kubelet
    11211, // memcached
    11434, // Ollama
    15672, // RabbitMQ, HTTP
    16379, // Redis, cluster
    19530, // Milvus
    22222, // SSH, unprivileged
    26257, // CockroachDB
    26379, // Redis, sentinel
    27017, // MongoDB
    27018, // MongoDB, shards
    27019, // MongoDB, configuration
    28015, // RethinkDB
    50051, // gRPC
    61613, // STOMP
    61616, // ActiveMQ
];

/// Ports with a UDP socket besides those of the document: DNS, time, HTTP/3.
pub(crate) const UDP_PORTS: [u16; 3] = [53, 123, 443];

/// Ports with a TCP listener besides those of the document.
pub(crate) fn tcp_ports() -> impl Iterator<Item = u16> {
    (1..=1023).chain(HIGHER_TCP_PORTS.iter().copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_stands_once_in_order() {
        let all: Vec<u16> = tcp_ports().collect();
        assert!(all.is_sorted_by(|a, b| a < b));
        assert!(all.len() < 1200, "{} sockets", all.len());
    }
}
