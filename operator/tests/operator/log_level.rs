//! The log level of the real program, changed while it runs.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

const LIMIT: Duration = Duration::from_secs(20);

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Until a line is as wanted; all before it are passed over.
fn until(lines: &Receiver<Value>, wanted: impl Fn(&Value) -> bool) -> Value {
    let end = Instant::now() + LIMIT;
    loop {
        let line = lines
            .recv_timeout(end.saturating_duration_since(Instant::now()))
            .unwrap();
        if wanted(&line) {
            return line;
        }
    }
}

#[test]
fn it_changes_with_the_file_and_what_is_no_level_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (level, kubeconfig) = (folder.path().join("level"), folder.path().join("kubeconfig"));
    // Nobody answers there; the program tries again and again.
    let cluster = r#"{"apiVersion": "v1", "kind": "Config", "current-context": "none",
        "clusters": [{"name": "none", "cluster": {"server": "http://127.0.0.1:1"}}],
        "contexts": [{"name": "none", "context": {"cluster": "none", "user": "none"}}], "users": [{"name": "none"}]}"#;
    fs::write(&kubeconfig, cluster).unwrap();
    fs::write(&level, "warn\n").unwrap();
    let program = Command::new(env!("CARGO_BIN_EXE_commerce-operator"))
        .arg("run")
        .env_clear()
        .env("KUBECONFIG", &kubeconfig)
        .env("ADMIN_ADDR", "127.0.0.1:0")
        .env("LOG_LEVEL_FILE", &level)
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut program = Running(program);
    let stderr = BufReader::new(program.0.stderr.take().unwrap());
    let (sender, lines) = channel();
    thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            let _ = sender.send(serde_json::from_str(&line).unwrap_or_default());
        }
    });
    let changed = |to: &'static str| move |line: &Value| line["now"] == to;
    until(&lines, changed("warn"));

    fs::write(&level, "commerce_operator=loud").unwrap();
    let refused = until(&lines, |line| line["told"] == "commerce_operator=loud");
    assert_eq!(refused["level"], "WARN");

    fs::write(&level, "debug").unwrap();
    until(&lines, changed("debug"));
    until(&lines, |line| line["level"] == "DEBUG");

    fs::write(&level, "warn").unwrap();
    until(&lines, changed("warn"));
}
