//! Clients without TLS, whose every request is read on its way.

use std::process::Command;

use cellos_testkit::require;

use super::cell::{Cell, DECLARED, Outside, UNDECLARED};
use super::outside::Server;

/// Says how many bytes came, and on which of the server's connections.
const SERVER: &str = "
    let connections = 0;
    const server = require('http').createServer(async (request, response) => {
        let length = 0;
        for await (const part of request) length += part.length;
        response.end(`${request.method} of ${length} on ${request.socket.number}\\n`);
    });
    server.on('connection', (socket) => { socket.number = ++connections; });
    server.listen(0, '127.0.0.1', () => console.log(server.address().port));
";

fn server() -> Server {
    Server::start(Command::new("/usr/bin/node").args(["-e", SERVER]))
}

#[test]
fn curl_over_http() {
    require!("userns");
    require!("curl");
    require!("node");
    let outside = Outside::new();
    let server = server();
    let port = server.port();
    let there = format!("http://{DECLARED}:{port}/");
    let ran = outside.run(&Cell {
        port,
        script: &format!(
            "head -c 3000000 /dev/zero > large
             curl -sS {there} {there}again --next -sS -I {there} | grep -i -e GET -e '^HTTP'
             curl -sS -H 'Expect: 100-continue' --data-binary @large {there}
             curl -sS -T - {there} < large
             curl -sS --http2 -X PATCH {there}
             curl -sS --http2-prior-knowledge {there} || echo \"no h2c\"
             curl -sS -H 'Host: {UNDECLARED}' -w 'status %{{http_code}}\\n' {there}
             curl -sS http://{UNDECLARED}:{port}/; echo \"name $?\""
        ),
        ..Cell::default()
    });
    ran.said(&[
        "GET of 0 on 1\nGET of 0 on 1\nHTTP/1.1 200 OK",
        "POST of 3000000 on",
        "PUT of 3000000 on",
        "PATCH of 0 on",
        "no h2c",
        "refused by the cell's gateway",
        "status 403",
        "name 6",
    ]);
    ran.reached();
    ran.refused_name();
    ran.refused_flow("http2_cleartext");
    let host = ran.refused_flow("l7_http_host_allowlist_miss");
    assert_eq!(host["presentedName"], UNDECLARED);
}

#[test]
fn a_second_host_on_a_connection_of_node() {
    require!("userns");
    require!("node");
    let outside = Outside::new();
    let server = server();
    let port = server.port();
    let script = format!(
        "const http = require('http');
         const agent = new http.Agent({{keepAlive: true, maxSockets: 1}});
         const ask = (host) => new Promise((done) => {{
             const headers = {{host}};
             http.get({{agent, host: '{DECLARED}', port: {port}, headers}}, (answer) => {{
                 answer.on('data', (data) => console.log('' + data));
                 answer.on('end', () => done());
             }}).on('error', (error) => {{ console.log(host, error.code); done(); }});
         }});
         (async () => {{
             for (const host of ['{DECLARED}', '{DECLARED}:{port}', '{UNDECLARED}']) await ask(host);
             agent.destroy();
         }})();"
    );
    let file = outside.place.file("client.js", script);
    let ran = outside.run(&Cell {
        port,
        script: "node /client.js",
        mounts: &[(&file, "/client.js")],
        ..Cell::default()
    });
    ran.said(&[
        "GET of 0 on 1\n\nGET of 0 on 1\n",
        &format!("{UNDECLARED} E"),
    ]);
    ran.reached();
    let refused = ran.refused_flow("l7_http_host_allowlist_miss");
    assert_eq!(refused["presentedName"], UNDECLARED);
}
