//! Peers of whom the agent sees no process: real ones, for which this program is run again. These
//! need root, for namespaces and mounts, and fail without it.

use super::pods::{PODS, World, wanted};
use super::*;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixStream as Blocking;
use std::process::{Child, Command, Stdio};
use tokio::net::UnixStream;

/// Says to this program, run again, that it is to be an agent.
const SERVE: &str = "ARX_TEST_SERVE";
/// Says to it where it has to connect, and that another is to speak there.
const CONNECT: &str = "ARX_TEST_CONNECT_AND_GO";
/// Says to it that its standard input is a connection.
const SPEAK: &str = "ARX_TEST_SPEAK";
/// Before what it says.
const SAYS: &str = "it says: ";

/// This program, which runs one of its tests.
fn again(program: &mut Command, test: &str) -> std::io::Result<Child> {
    program
        .args(["--exact", &format!("run::tests::unseen::{test}")])
        .arg("--nocapture")
        .stdout(Stdio::piped())
        .spawn()
}

/// Who the pod of a node is, as anybody is told who connects there.
async fn identity(proxy: &Proxy) -> Result<String, tonic::Status> {
    let got = proxy.ask("default", None).take().await?;
    Ok(got.chain().spiffe_id().to_string())
}

/// An agent in a pid namespace of its own, which sees no process outside of it. It ends with this.
struct Apart {
    child: Child,
    shared: PathBuf,
    of_pod: PathBuf,
}

impl Apart {
    fn start() -> std::io::Result<Self> {
        let mut unshare = Command::new("unshare");
        unshare
            .args(["--pid", "--fork", "--kill-child", "--mount-proc", "--"])
            .arg(std::env::current_exe()?)
            .env(SERVE, "1")
            .stdin(Stdio::piped());
        let mut child = again(&mut unshare, "serves_where_it_sees_nobody_else")?;
        let said = BufReader::new(child.stdout.as_mut().expect("piped"));
        let mut said = said.lines().map_while(Result::ok);
        let mut place = || {
            said.find_map(|line| Some(PathBuf::from(line.split_once(SAYS)?.1)))
                .expect("it serves")
        };
        let (shared, of_pod) = (place(), place());
        Ok(Self {
            child,
            shared,
            of_pod,
        })
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        // It removes what it has made.
        drop(self.child.stdin.take());
        let _reaped = self.child.wait();
    }
}

/// A pod's socket where the agent has it: what is mounted is seen in the mount's namespace alone.
fn socket_of_the_pod(node: &Node) -> PathBuf {
    let mut found = vec![node.directory.path().join("pods")];
    while let Some(path) = found.pop() {
        let kind = path.symlink_metadata().expect("it is there").file_type();
        if kind.is_socket() {
            return path;
        }
        if kind.is_dir() {
            let entries = std::fs::read_dir(&path).expect("readable");
            found.extend(entries.map(|it| it.expect("readable").path()));
        }
    }
    panic!("no pod has a socket");
}

#[tokio::test]
async fn serves_where_it_sees_nobody_else() {
    if std::env::var_os(SERVE).is_none() {
        return;
    }
    let pods = PODS.replace("[\"token\"]", "[\"process\"]");
    let mut world = World::with(&pods).await;
    world.kubelet.publish(&wanted(1)).await.expect("published");
    for socket in [world.node.socket(), socket_of_the_pod(&world.node)] {
        println!("{SAYS}{}", socket.display());
    }
    let ended = tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()));
    ended.await.expect("no panic").expect("readable");
    world.node.end().await;
}

#[tokio::test]
async fn who_connects_from_a_pid_namespace_that_is_not_seen_is_the_pod_of_its_socket_and_else_refused()
 {
    let apart = Apart::start().expect("it starts");
    let proxy = Proxy::connect(&apart.of_pod).await;
    let pod = identity(&proxy).await;
    assert_eq!(pod.expect("a certificate"), id("/sa/b").to_string());
    let proxy = Proxy::connect(&apart.shared).await;
    let refused = identity(&proxy).await.expect_err("of no pod that is seen");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().starts_with("ARX-AGENT-PROCESS-HIDDEN"),
        "{refused}"
    );
}

#[test]
#[expect(
    clippy::zombie_processes,
    reason = "it outlives this process, with the connection"
)]
fn connects_and_leaves_the_connection_to_another() {
    let Some(socket) = std::env::var_os(CONNECT) else {
        return;
    };
    let connection = Blocking::connect(socket).expect("the agent listens");
    // With the connection it takes the pipe by which what it says is read.
    Command::new(std::env::current_exe().expect("it runs"))
        .args(["--exact", "run::tests::unseen::speaks_on_what_it_is_given"])
        .arg("--nocapture")
        .env_remove(CONNECT)
        .env(SPEAK, "1")
        .stdin(OwnedFd::from(connection))
        .spawn()
        .expect("it starts");
}

#[tokio::test]
async fn speaks_on_what_it_is_given() {
    if std::env::var_os(SPEAK).is_none() {
        return;
    }
    let connection = std::io::stdin().as_fd().try_clone_to_owned();
    let connection = Blocking::from(connection.expect("it is open"));
    connection.set_nonblocking(true).expect("a socket");
    let connection = UnixStream::from_std(connection).expect("a socket");
    let proxy = Proxy::over(connection).await;
    let pod = identity(&proxy).await.expect("a certificate");
    println!("{SAYS}{pod}");
    std::io::stdout().flush().expect("it is read");
}

#[tokio::test]
async fn a_pods_connection_is_the_pods_though_who_made_it_has_ended() {
    let mut world = World::start().await;
    let target = world.kubelet.publish(&wanted(1)).await.expect("published");
    let mut program = Command::new(std::env::current_exe().expect("it runs"));
    program.env(CONNECT, target.join("socket"));
    let test = "connects_and_leaves_the_connection_to_another";
    let mut first = again(&mut program, test).expect("it starts");
    // The agent is on this thread, so nobody is accepted before the process is gone.
    assert!(first.wait().expect("it ends").success());
    let mut said = first.stdout.take().expect("piped");
    let said = tokio::task::spawn_blocking(move || {
        let mut text = String::new();
        said.read_to_string(&mut text).map(|_| text)
    });
    let said = said.await.expect("no panic").expect("text");
    let expected = format!("{SAYS}{}", id("/sa/b"));
    assert!(said.contains(&expected), "{said}");
}
