//! One store's processes and folder, held so that they cannot outlive the test.
//!
//! The test talks over a pipe with a supervisor (`supervise.sh`), which owns both. A pipe closes however its holder ends,
//! SIGKILL included, and no store or other child inherits it. The supervisor has a process group of its own, so that
//! Ctrl-C in a terminal reaches the test alone.

use std::{
    fmt, fs,
    io::{self, BufRead as _, BufReader, Write as _},
    os::unix::{
        fs::{MetadataExt as _, chown},
        process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::future::BoxFuture;
use tokio::time::{Instant, sleep, timeout};

use super::Error;

const SUPERVISE: &str = include_str!("supervise.sh");
/// PostgreSQL and Elasticsearch refuse to run as root; then every store runs as this user, `nobody`.
const UNPRIVILEGED: u32 = 65_534;
/// How long a store may take to answer after its start. On a busy machine Elasticsearch has been seen to take 40 s.
const PATIENCE: Duration = Duration::from_mins(2);
const LOG_TAIL: usize = 30;

/// Asks a store something that it can only answer when it is ready; the error says what it answered instead.
type Probe = Box<dyn Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync>;

/// What can be done to every store: it is the target of each store's `Deref`.
///
/// The store's processes and its folder end with this value, or with the process that holds it.
pub struct Process {
    store: &'static str,
    folder: PathBuf,
    id: u32,
    supervisor: Mutex<Supervisor>,
    probe: Probe,
}

struct Supervisor {
    child: Child,
    /// Taken when the supervisor is to end.
    commands: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

/// What to run. `files` are put into the folder, which is the working directory of `script`.
pub(super) struct Spec {
    pub(super) store: &'static str,
    /// Shell commands that end in `exec`ing the store. They run at each start, so they must cope with existing data.
    pub(super) script: &'static str,
    pub(super) variables: Vec<(&'static str, String)>,
    pub(super) files: Vec<(&'static str, String)>,
}

impl Process {
    /// Starts the store and waits until `probe` succeeds.
    pub(super) async fn start<P>(spec: Spec, probe: P) -> Result<Self, Error>
    where
        P: Fn() -> BoxFuture<'static, Result<(), String>> + Send + Sync + 'static,
    {
        let store = spec.store;
        let unprivileged = (user().map_err(failure(store, "finding the user"))? == 0).then_some(UNPRIVILEGED);
        let folder = make_folder(store, unprivileged).map_err(failure(store, "making the folder"))?;
        let supervisor = Supervisor::spawn(&spec, &folder, unprivileged)
            .map_err(failure(store, "starting the supervisor"))?;
        let process = Self {
            store,
            folder,
            id: supervisor.child.id(),
            supervisor: Mutex::new(supervisor),
            probe: Box::new(probe),
        };
        for (name, content) in &spec.files {
            fs::write(process.folder.join(name), content)
                .map_err(failure(store, "writing the configuration"))?;
        }
        process.restart().await?;
        Ok(process)
    }

    /// Kills the store with SIGKILL, as a crash would end it, and returns when all its processes are gone. Its data stays.
    pub fn kill(&self) -> Result<(), Error> {
        self.command("kill").map(drop)
    }

    /// Starts the store on the port and data it had, after killing it if it runs, and waits until it answers.
    pub async fn restart(&self) -> Result<(), Error> {
        self.command("start")?;
        self.answering().await
    }

    /// Stops all the store's processes where they are (SIGSTOP): connections stay open, and nothing answers.
    pub fn pause(&self) -> Result<(), Error> {
        self.command("pause").map(drop)
    }

    /// Lets a paused store go on.
    pub fn resume(&self) -> Result<(), Error> {
        self.command("resume").map(drop)
    }

    /// The end of what the store has written to its log.
    #[must_use]
    pub fn log(&self) -> String {
        let log = fs::read(self.folder.join("log")).unwrap_or_default();
        let log = String::from_utf8_lossy(&log);
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(LOG_TAIL)..].join("\n")
    }

    /// The store's folder, which holds its data.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The id of the process that all of the store's processes descend from; it stays the same when the store is restarted.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id
    }

    async fn answering(&self) -> Result<(), Error> {
        let store = self.store;
        let until = Instant::now() + PATIENCE;
        loop {
            let answer = timeout(Duration::from_secs(5), (self.probe)()).await;
            let problem = match answer {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(problem)) => problem,
                Err(_) => "no answer within 5 s".to_owned(),
            };
            if self.command("ask")? == "ended" {
                return Err(Error::Ended {
                    store,
                    log: self.log(),
                });
            }
            if Instant::now() > until {
                return Err(Error::Silent {
                    store,
                    seconds: PATIENCE.as_secs(),
                    problem,
                    log: self.log(),
                });
            }
            sleep(Duration::from_millis(50)).await;
        }
    }

    fn command(&self, command: &'static str) -> Result<String, Error> {
        let mut supervisor = self.supervisor.lock().unwrap_or_else(PoisonError::into_inner);
        supervisor.command(command).map_err(failure(self.store, command))
    }
}

impl Supervisor {
    fn spawn(spec: &Spec, folder: &Path, unprivileged: Option<u32>) -> io::Result<Self> {
        let mut command = Command::new("sh");
        command
            .args(["-c", SUPERVISE, "supervise", spec.script])
            .current_dir(folder);
        command.envs(spec.variables.iter().map(|(name, value)| (name, value)));
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0);
        if let Some(id) = unprivileged {
            command.uid(id).gid(id);
        }
        let mut child = command.spawn()?;
        let commands = child.stdin.take();
        let answers = child
            .stdout
            .take()
            .ok_or_else(|| io::Error::other("the supervisor has no output"))?;
        Ok(Self {
            child,
            commands,
            answers: BufReader::new(answers),
        })
    }

    fn command(&mut self, command: &str) -> io::Result<String> {
        let commands = self
            .commands
            .as_mut()
            .ok_or_else(|| io::Error::other("the supervisor has ended"))?;
        commands.write_all(format!("{command}\n").as_bytes())?;
        let mut answer = String::new();
        if self.answers.read_line(&mut answer)? == 0 {
            return Err(io::Error::other("the supervisor has ended"));
        }
        Ok(answer.trim_end().to_owned())
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        self.commands = None;
        // Nothing is to be done about a failure here: the supervisor has been told, and goes on by itself.
        let _ = self.child.wait();
    }
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("store", &self.store)
            .field("folder", &self.folder)
            .finish_non_exhaustive()
    }
}

fn make_folder(store: &str, owner: Option<u32>) -> io::Result<PathBuf> {
    let folder = tempfile::Builder::new()
        .prefix(&format!("commerce-{store}-"))
        .tempdir()?
        .keep();
    chown(&folder, owner, owner)?;
    Ok(folder)
}

/// The user this process runs as.
pub(super) fn user() -> io::Result<u32> {
    fs::metadata("/proc/self").map(|metadata| metadata.uid())
}

/// Makes an I/O error into one that says what was being done to which store.
pub(super) fn failure(store: &'static str, action: &'static str) -> impl FnOnce(io::Error) -> Error {
    move |source| Error::Process {
        store,
        action,
        source,
    }
}
