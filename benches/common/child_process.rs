//! A second process that runs the same program: the parent writes lines to its standard input, the
//! child answers each with one line.

use std::fmt::Debug;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::str::FromStr;

/// The child as the parent sees it. It ends when its standard input closes, at the latest when this
/// is dropped.
#[derive(Debug)]
pub(crate) struct ChildProcess {
    child: Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

impl ChildProcess {
    /// Starts this program again with other arguments.
    pub(crate) fn start(args: &[&str]) -> Self {
        let program = std::env::current_exe().expect("the path of this program");
        let mut child = Command::new(program)
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a second process");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, stdin, stdout }
    }

    /// Waits for a line.
    pub(crate) fn read_line(&mut self) -> String {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("the child process lives");
        line.trim().to_owned()
    }

    /// Writes a line and waits for the numbers of the answer.
    pub(crate) fn ask<T: FromStr<Err: Debug>>(&mut self, line: &str) -> Vec<T> {
        let stdin = self.stdin.as_mut().expect("a pipe");
        writeln!(stdin, "{line}").and_then(|()| stdin.flush()).expect("the child process lives");
        self.read_line().split_whitespace().map(|word| word.parse().expect("a number")).collect()
    }

    /// Waits until the child ends by itself.
    ///
    /// # Panics
    /// If it failed.
    pub(crate) fn wait(mut self) {
        assert!(self.child.wait().expect("the child process").success(), "the child process failed");
    }
}

impl Drop for ChildProcess {
    fn drop(&mut self) {
        self.stdin = None;
        let _ = self.child.wait();
    }
}

/// In the child: answers lines until the parent closes the pipe. `answer` gets the words of a line.
pub(crate) fn answer_lines(mut answer: impl FnMut(&[&str]) -> String) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { return };
        let words: Vec<&str> = line.split(' ').collect();
        let answer = answer(&words);
        let mut out = io::stdout().lock();
        writeln!(out, "{answer}").and_then(|()| out.flush()).expect("the parent process lives");
    }
}

/// In the child: a number that the parent sent.
///
/// # Panics
/// If it is none.
pub(crate) fn number(word: &str) -> usize {
    word.parse().expect("a number")
}
