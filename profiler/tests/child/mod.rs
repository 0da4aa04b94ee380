//! A child to look at: it says a line when it is ready, and ends when its input closes.

use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

pub(crate) struct Child {
    inner: std::process::Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    said: String,
}

impl Child {
    /// Runs a Python program that prints one line when it is ready.
    pub(crate) fn python(program: &str) -> Self {
        let mut command = Command::new("python3");
        command.args(["-S", "-c", program]);
        Self::run(command)
    }

    /// Runs a command that prints one line when it is ready.
    pub(crate) fn run(mut command: Command) -> Self {
        let mut inner = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the child starts");
        let input = inner.stdin.take();
        let output = BufReader::new(inner.stdout.take().expect("piped"));
        let mut child = Self {
            inner,
            input,
            output,
            said: String::new(),
        };
        child.said = child.listen();
        child
    }

    pub(crate) fn pid(&self) -> i32 {
        self.inner.id() as i32
    }

    /// The line that it said when it was ready.
    pub(crate) fn said(&self) -> &str {
        &self.said
    }

    /// Its next line.
    pub(crate) fn listen(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }

    /// Gives it a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("open");
        writeln!(input, "{line}").expect("it reads");
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.inner.kill();
        let _ = self.inner.wait();
    }
}
