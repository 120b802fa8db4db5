//! Real clients, unchanged, in cells: what their document declares works, and what lies next to it
//! does not and is in the record.

mod cell;
mod outside;
mod packages;
mod plain;
mod postgres;
mod streams;

use cellos_testkit::require;

use self::cell::{AUTHORITY, Cell, DECLARED, Outside, UNDECLARED};
use self::outside::{free_port, serve_folder};

/// A folder with one file, served.
fn a_page(outside: &Outside) -> u16 {
    let folder = outside.place.path().join("web");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("page.html"), "a page").unwrap();
    serve_folder(&outside.certificates, &folder)
}

#[test]
fn curl_over_https() {
    require!("userns");
    require!("curl");
    let outside = Outside::new();
    let (port, other) = (a_page(&outside), free_port());
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "curl -sS --cacert {AUTHORITY} https://{DECLARED}:{port}/page.html; echo \" was $?\"
             curl -sS --cacert {AUTHORITY} https://{UNDECLARED}:{port}/page.html; echo \"name $?\"
             curl -sS --cacert {AUTHORITY} https://{DECLARED}:{other}/page.html; echo \"port $?\"
             curl -sS --cacert {AUTHORITY} --connect-to {UNDECLARED}:{port}:{DECLARED}:{port} \
               https://{UNDECLARED}:{port}/page.html; echo \"fronted $?\""
        ),
        ..Cell::default()
    });
    // curl(1): 6 is a name that was not found, 7 a refused connection, 35 a failed handshake.
    ran.said(&["a page was 0", "name 6", "port 7", "fronted 35"]);
    ran.reached();
    ran.refused_name();
    ran.refused_flow("undeclared_port");
    let fronted = ran.refused_flow("l7_sni_allowlist_miss");
    assert_eq!(fronted["presentedName"], UNDECLARED);
}

#[test]
fn openssl_with_the_right_and_the_wrong_server_name() {
    require!("userns");
    require!("openssl");
    let outside = Outside::new();
    let port = a_page(&outside);
    let client = format!(
        "openssl s_client -connect {DECLARED}:{port} -CAfile {AUTHORITY} -verify_return_error -brief"
    );
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "{client} -servername {DECLARED} < /dev/null; echo \"right $?\"
             {client} -servername {UNDECLARED} < /dev/null; echo \"wrong $?\"
             {client} -noservername < /dev/null; echo \"none $?\""
        ),
        ..Cell::default()
    });
    ran.said(&["right 0", "wrong 1", "none 1", "Verification: OK"]);
    ran.reached();
    let wrong = ran.refused_flow("l7_sni_allowlist_miss");
    assert_eq!(wrong["presentedName"], UNDECLARED);
    ran.refused_flow("l7_sni_missing");
}

#[test]
fn urllib_of_python() {
    require!("userns");
    require!("debian-python3");
    let outside = Outside::new();
    let port = a_page(&outside);
    let ask = "import sys, urllib.request as r; print(r.urlopen(sys.argv[1]).read().decode())";
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "/usr/bin/python3 -c '{ask}' https://{DECLARED}:{port}/page.html
             /usr/bin/python3 -c '{ask}' https://{UNDECLARED}:{port}/page.html; echo \"name $?\""
        ),
        env: &[("SSL_CERT_FILE", AUTHORITY)],
        ..Cell::default()
    });
    ran.said(&["a page", "name 1", "Temporary failure in name resolution"]);
    ran.reached();
    ran.refused_name();
}

#[test]
fn fetch_of_node() {
    require!("userns");
    require!("node");
    let outside = Outside::new();
    let port = a_page(&outside);
    let ask = "fetch(process.argv[1]).then(it => it.text()).then(console.log)";
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "node -e '{ask}' https://{DECLARED}:{port}/page.html
             node -e '{ask}' https://{UNDECLARED}:{port}/page.html; echo \"name $?\""
        ),
        env: &[("NODE_EXTRA_CA_CERTS", AUTHORITY)],
        ..Cell::default()
    });
    ran.said(&["a page", "name 1", "getaddrinfo"]);
    ran.reached();
    ran.refused_name();
}
