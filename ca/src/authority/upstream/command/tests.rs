use super::*;

fn shell(script: &str) -> Command {
    Command {
        program: "/bin/sh".into(),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        deadline: Duration::from_secs(60),
        environment: Vec::new(),
    }
}

async fn failure(command: &Command) -> CommandError {
    command
        .run("request\n")
        .await
        .expect_err("it gives no chain")
}

#[tokio::test]
async fn the_request_goes_in_and_what_is_printed_comes_out() {
    let printed = shell("read line; echo \"for $line\"")
        .run("request\n")
        .await;
    assert_eq!(printed.expect("it works"), "for request\n");
    let printed = shell("echo unread").run(&"x".repeat(1 << 20)).await;
    assert_eq!(printed.expect("it need not read"), "unread\n");
}

#[tokio::test]
async fn nothing_of_the_environment_is_seen_but_what_is_named() {
    let named = Command {
        environment: vec!["CARGO_PKG_NAME".to_owned(), "NOT_SET".to_owned()],
        ..shell("echo \"[$CARGO_PKG_NAME][$CARGO_MANIFEST_DIR][$NOT_SET]\"; pwd")
    };
    let printed = named.run("").await.expect("it works");
    assert_eq!(printed, "[arx-ca][][]\n/\n");
}

#[tokio::test]
async fn a_command_that_fails_is_told_with_the_end_of_what_it_said_and_no_control_characters() {
    let script = r"i=0; while [ $i -lt 1000 ]; do echo line $i >&2; i=$((i+1)); done
        printf 'not signed: \033[31mred\302\205 \342\200\256gnorw\n' >&2; exit 3";
    let error = failure(&shell(script)).await;
    assert_eq!(error.code(), "ARX-UPSTREAM-FAILED");
    let told = error.to_string();
    assert_eq!(
        told,
        "the upstream command ended with exit status: 3; it said: line 996 | line 997 | line 998 \
         | line 999 | not signed: \\u{1b}[31mred\\u{85} \\u{202e}gnorw"
    );
    let long = failure(&shell(
        "head -c 100000 /dev/zero | tr '\\0' x >&2; kill -9 $$",
    ))
    .await
    .to_string();
    assert!(long.len() < 400, "{} bytes", long.len());
    let silent = failure(&shell("exit 1")).await.to_string();
    assert!(
        silent.ends_with("exit status: 1, and said nothing on standard error"),
        "{silent}"
    );
}

#[tokio::test]
async fn ten_megabytes_are_too_much_and_bytes_that_are_no_text_are_no_chain() {
    let error = failure(&shell("head -c 10000000 /dev/zero; echo done >&2")).await;
    assert!(matches!(error, CommandError::TooMuch { .. }), "{error}");
    assert_eq!(error.code(), "ARX-UPSTREAM-OUTPUT");
    let error = failure(&shell("printf '\\377'")).await;
    assert!(matches!(error, CommandError::NotText { .. }), "{error}");
}

#[tokio::test]
async fn a_program_that_is_not_there_is_told_by_its_path() {
    let error = failure(&Command {
        program: "/nonexistent/sign".into(),
        ..shell("")
    })
    .await;
    assert_eq!(error.code(), "ARX-UPSTREAM-START");
    assert!(error.to_string().contains("/nonexistent/sign"), "{error}");
}

/// Whether a process is there and no zombie.
fn runs(id: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{id}/stat")).is_ok_and(|stat| {
        !stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z"))
    })
}

#[tokio::test]
async fn at_the_deadline_the_command_and_all_that_it_has_started_are_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let child = folder.path().join("child");
    let script = format!(
        "sleep 1000 & echo $! > {0}.new; mv {0}.new {0}; echo waiting >&2; wait",
        child.display()
    );
    let hanging = Command {
        deadline: Duration::from_millis(500),
        ..shell(&script)
    };
    // However slow the machine is: until it has come so far.
    let id = loop {
        let error = failure(&hanging).await;
        assert_eq!(error.code(), "ARX-UPSTREAM-DEADLINE");
        if let Ok(id) = std::fs::read_to_string(&child) {
            break id;
        }
    };
    while runs(id.trim()) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_command_that_leaves_a_child_with_its_output_is_waited_for_to_the_deadline_only() {
    let leaving = Command {
        deadline: Duration::from_millis(500),
        ..shell("sleep 1000 & echo chain")
    };
    assert_eq!(failure(&leaving).await.code(), "ARX-UPSTREAM-DEADLINE");
}

#[tokio::test]
async fn when_nobody_waits_any_more_the_command_is_killed() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = folder.path().join("own");
    let script = format!(
        "echo $$ > {0}.new; mv {0}.new {0}; sleep 1000",
        own.display()
    );
    let command = shell(&script);
    let mut running = Box::pin(command.run(""));
    let id = loop {
        tokio::select! {
            ended = &mut running => panic!("{ended:?}"),
            () = tokio::task::yield_now() => {}
        }
        if let Ok(id) = std::fs::read_to_string(&own) {
            break id;
        }
    };
    assert!(runs(id.trim()));
    drop(running);
    while runs(id.trim()) {
        tokio::task::yield_now().await;
    }
}
