use super::*;

#[test]
fn every_special_block_is_known() {
    for (address, what) in [
        ("0.0.0.0", "\"this network\" (RFC 791)"),
        ("0.255.255.255", "\"this network\" (RFC 791)"),
        ("10.0.0.0", "private use (RFC 1918)"),
        ("10.255.255.255", "private use (RFC 1918)"),
        ("100.64.0.0", "carrier-grade NAT (RFC 6598)"),
        ("100.127.255.255", "carrier-grade NAT (RFC 6598)"),
        ("100.100.100.200", "cloud metadata (Alibaba Cloud)"),
        ("127.0.0.1", "loopback (RFC 1122)"),
        ("127.255.255.255", "loopback (RFC 1122)"),
        ("168.63.129.16", "cloud metadata (Azure)"),
        ("169.254.0.1", "link-local (RFC 3927)"),
        ("169.254.169.254", "cloud metadata"),
        ("169.254.170.2", "cloud credentials (Amazon ECS)"),
        ("169.254.170.23", "cloud credentials (Amazon EKS)"),
        ("172.16.0.0", "private use (RFC 1918)"),
        ("172.31.255.255", "private use (RFC 1918)"),
        ("192.0.0.8", "IETF protocol assignments (RFC 6890)"),
        ("192.0.0.192", "cloud metadata (Oracle Cloud)"),
        ("192.0.2.1", "documentation (RFC 5737)"),
        ("192.88.99.1", "6to4 relay anycast (RFC 7526)"),
        ("192.168.255.255", "private use (RFC 1918)"),
        ("198.18.0.0", "benchmarking (RFC 2544)"),
        ("198.19.255.255", "benchmarking (RFC 2544)"),
        ("198.51.100.255", "documentation (RFC 5737)"),
        ("203.0.113.1", "documentation (RFC 5737)"),
        ("224.0.0.1", "multicast (RFC 5771)"),
        ("239.255.255.255", "multicast (RFC 5771)"),
        ("240.0.0.0", "reserved (RFC 1112)"),
        ("255.255.255.255", "limited broadcast (RFC 919)"),
        ("::", "the unspecified address (RFC 4291)"),
        ("::1", "loopback (RFC 4291)"),
        ("::2", "IPv4-compatible (RFC 4291, deprecated)"),
        ("::8.8.8.8", "IPv4-compatible (RFC 4291, deprecated)"),
        ("::ffff:127.0.0.1", "loopback (RFC 1122)"),
        ("::ffff:169.254.169.254", "cloud metadata"),
        ("::ffff:0:127.0.0.1", "IPv4-translated (RFC 7915)"),
        ("64:ff9b::7f00:1", "loopback (RFC 1122)"),
        ("64:ff9b::a9fe:a9fe", "cloud metadata"),
        ("64:ff9b:1::808:808", "local-use NAT64 (RFC 8215)"),
        ("100::1", "discard only (RFC 6666)"),
        ("100:0:0:1::1", "dummy prefix (RFC 9780)"),
        ("2001::1", "Teredo (RFC 4380)"),
        ("2001:2::1", "benchmarking (RFC 5180)"),
        ("2001:10::1", "IETF protocol assignments (RFC 2928)"),
        ("2001:db8::1", "documentation (RFC 3849)"),
        ("2002:a00:1::1", "private use (RFC 1918)"),
        ("2002:7f00:1::", "loopback (RFC 1122)"),
        ("3fff:fff::1", "documentation (RFC 9637)"),
        ("5f00::1", "segment routing (RFC 9602)"),
        ("fc00::1", "unique local (RFC 4193)"),
        ("fdff::1", "unique local (RFC 4193)"),
        ("fd00:ec2::254", "cloud metadata (Amazon EC2)"),
        ("fd00:ec2::23", "cloud credentials (Amazon EKS)"),
        ("fd20:ce::254", "cloud metadata (Google Cloud)"),
        ("fe80::1", "link-local (RFC 4291)"),
        ("febf::1", "link-local (RFC 4291)"),
        ("fec0::1", "site-local (RFC 3879, deprecated)"),
        ("ff02::1", "multicast (RFC 4291)"),
    ] {
        assert_eq!(special(address.parse().unwrap()), Some(what), "{address}");
    }
}

#[test]
fn the_internet_is_not_special() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "126.255.255.255",
        "128.0.0.0",
        "168.63.129.15",
        "169.253.255.255",
        "169.255.0.0",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.0",
        "192.0.3.0",
        "192.167.255.255",
        "192.169.0.0",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2001:200::1",
        "2001:4860:4860::8888",
        "2606:4700::1111",
        "2a00::1",
        "::ffff:8.8.8.8",
        "64:ff9b::808:808",
        "2002:808:808::1",
    ] {
        assert_eq!(special(address.parse().unwrap()), None, "{address}");
    }
}

#[test]
fn the_block_of_an_address_has_it() {
    for (address, block) in [
        ("10.1.2.3", "10.0.0.0/8"),
        ("::ffff:10.1.2.3", "10.0.0.0/8"),
        ("169.254.169.254", "169.254.169.254/32"),
        ("64:ff9b::a01:203", "64:ff9b::a00:0/104"),
        ("2002:a01:203::1", "2002:a00::/24"),
        ("fd12::1", "fc00::/7"),
    ] {
        let special = special_block(address.parse().unwrap()).unwrap();
        let found = format!("{}/{}", special.block.network(), special.block.prefix());
        assert_eq!(found, block, "{address}");
        assert!(special.block.contains(address.parse().unwrap()));
    }
}
