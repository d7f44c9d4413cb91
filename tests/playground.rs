//! The playground, asked over its port as a browser asks, and shown by one.
#![cfg(feature = "playground")]

#[path = "support/browser.rs"]
mod browser;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A server, which ends with the test.
struct Playground {
    server: Child,
    place: String,
}

impl Playground {
    fn start() -> Playground {
        let mut server = Command::new(env!("CARGO_BIN_EXE_netloom"))
            .args(["playground", "--port", "0"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let mut line = String::new();
        BufReader::new(server.stdout.take().expect("it was piped"))
            .read_line(&mut line)
            .expect("text");
        let (_, rest) = line.split_once("http://").expect("an address");
        let place = rest.split(' ').next().expect("an address").to_owned();
        Playground { server, place }
    }

    /// What follows a request.
    fn ask(&self, path: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.place).expect("it listens");
        write!(
            stream,
            "GET {path} HTTP/1.1\r\nHost: playground\r\nConnection: close\r\n\r\n"
        )
        .expect("it listens");
        BufReader::new(stream)
    }

    /// The status and the text of an answer.
    fn answer(&self, path: &str) -> (u16, String) {
        let mut text = String::new();
        self.ask(path).read_to_string(&mut text).expect("text");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok());
        let (_, body) = text.split_once("\r\n\r\n").expect("a head");
        (status.expect("a status"), body.to_owned())
    }
}

impl Drop for Playground {
    fn drop(&mut self) {
        self.server.kill().expect("it runs");
        self.server.wait().expect("it ends");
    }
}

const SETTINGS: &str = "data=xor&noise=0.1&hidden=8&activation=tanh&optimiser=adam&rate=0.03&seed=1&epochs=120";

/// The first events of a training: their names and what they say.
fn events(answer: BufReader<TcpStream>, count: usize) -> Vec<(String, Value)> {
    let (mut found, mut name) = (Vec::new(), String::new());
    for line in answer.lines() {
        let line = line.expect("text");
        if let Some(event) = line.strip_prefix("event: ") {
            event.clone_into(&mut name);
        }
        if let Some(data) = line.strip_prefix("data: ") {
            found.push((name.clone(), serde_json::from_str(data).expect("JSON")));
        }
        if found.len() == count {
            break;
        }
    }
    found
}

#[test]
fn a_net_learns_the_exclusive_or_before_ones_eyes() {
    let playground = Playground::start();
    let events = events(playground.ask(&format!("/train?{SETTINGS}")), 60);
    let [(first, compiled), frames @ ..] = events.as_slice() else {
        panic!("{events:?}")
    };
    assert_eq!(first, "compiled");
    assert!(compiled["kernels"].as_u64() > Some(0), "{compiled}");
    let stages = compiled["stages"].as_array().expect("stages");
    assert!(stages.iter().all(|stage| !stage[1].as_str().expect("text").is_empty()));
    assert!(frames.iter().all(|(name, _)| name == "frame"));
    let number = |at: usize, name: &str| frames[at].1[name].as_f64().expect("a number");
    let last = frames.len() - 1;
    assert!(number(last, "validation") < 0.5 * number(0, "validation"));
    assert!(number(last, "accuracy") > 0.9, "{}", number(last, "accuracy"));
    // Opposite corners belong together.
    let ground = frames[last].1["ground"].as_array().expect("fields");
    let side = compiled["side"].as_u64().expect("a number") as usize;
    let field = |row: usize, column: usize| ground[row * side + column].as_u64().expect("a number");
    let (near, far) = (side / 8, side - 1 - side / 8);
    assert!(field(near, near) > 128 && field(far, far) > 128);
    assert!(field(near, far) < 128 && field(far, near) < 128);
}

#[test]
fn pages_and_refusals() {
    let playground = Playground::start();
    let (status, page) = playground.answer("/");
    assert_eq!(status, 200);
    assert!(!page.contains("https://"), "the page is whole without a network");
    let (status, page) = playground.answer(&format!("/compiled?{SETTINGS}"));
    assert!(
        status == 200 && page.contains("The training step of the playground"),
        "{status}"
    );
    for (path, status, part) in [
        ("/nowhere", 404, ""),
        ("/train", 400, "missing field"),
        (
            &SETTINGS.replace("data=xor", "data=stars"),
            400,
            "unknown variant `stars`",
        ),
        (&SETTINGS.replace("hidden=8", "hidden=8,100"), 400, "found `8,100`"),
        (&SETTINGS.replace("rate=0.03", "rate=-1"), 400, "found -1"),
        (&SETTINGS.replace("epochs=120", "epochs=0"), 400, "found 0"),
    ] {
        let path = if path.starts_with('/') {
            path.to_owned()
        } else {
            format!("/train?{path}")
        };
        let (found, text) = playground.answer(&path);
        assert!(found == status && text.contains(part), "{path}: {found}, {text}");
    }
    // What is asked for too often is refused too: the port is taken.
    let port = playground.place.rsplit(':').next().expect("a port");
    let second = Command::new(env!("CARGO_BIN_EXE_netloom"))
        .args(["playground", "--port", port])
        .output()
        .expect("the program starts");
    let message = String::from_utf8_lossy(&second.stderr);
    assert_eq!(second.status.code(), Some(1), "{message}");
    assert!(message.contains(port) && message.contains("--port"), "{message}");
}

#[test]
fn a_diverging_training_says_so() {
    let playground = Playground::start();
    let settings = SETTINGS
        .replace("rate=0.03", "rate=100")
        .replace("optimiser=adam", "optimiser=momentum");
    let settings = settings
        .replace("activation=tanh", "activation=relu")
        .replace("hidden=8", "hidden=64,64,64");
    let (status, text) = playground.answer(&format!("/train?{settings}"));
    assert_eq!(status, 200);
    assert!(
        text.contains("event: failed") && text.contains("the training diverges"),
        "{text}"
    );
}

#[test]
fn a_browser_shows_the_training_to_its_end() {
    let playground = Playground::start();
    let folder = tempfile::tempdir().expect("a folder");
    let address = format!("http://{}/?{SETTINGS}", playground.place);
    let Some(page) = browser::opened(&address, folder.path()) else {
        return;
    };
    let shown = |id: &str| {
        let (_, rest) = page.split_once(&format!("id=\"{id}\">")).expect("the element");
        rest.split('<').next().unwrap_or_default().to_owned()
    };
    assert_eq!(shown("epoch"), "120", "{page}");
    let accuracy = shown("accuracy");
    let percent: f64 = accuracy.trim_end_matches(" %").parse().expect("a number");
    assert!(percent > 90.0, "{accuracy}");
    assert!(
        shown("text").starts_with("graph("),
        "the differentiated graph is shown: {page}"
    );
    assert!(page.contains("<option>machine code</option>"), "{page}");
    assert!(!page.contains("role=\"alert\">the"), "nothing failed: {page}");
}
