//! The compared programs and their requirements.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;

use crate::{root, run as run_command};

/// A program, and the kind that it represents.
pub(super) struct Program {
    /// Its name for `--only`.
    pub(super) name: &'static str,
    /// One line for the table.
    pub(super) kind: &'static str,
    /// How it is started.
    pub(super) start: Start,
}

/// How a program is started.
#[derive(Copy, Clone, Eq, PartialEq)]
pub(super) enum Start {
    /// Python runs the file of this name.
    Python,
    /// It is compiled from the C file of this name.
    C,
    /// A Celery worker, which is compared; a script beside it sends the tasks.
    Celery,
}

const fn python(name: &'static str, kind: &'static str) -> Program {
    Program {
        name,
        kind,
        start: Start::Python,
    }
}

/// All programs, in the order of the table.
pub(super) const PROGRAMS: [Program; 13] = [
    python("json_tasks", "JSON tasks with a cache"),
    python("orm", "SQLAlchemy on a database in memory"),
    python("xml_trees", "lxml documents"),
    python("frames", "pandas tables"),
    python("images", "buffers of 64 KiB to 4 MiB"),
    python("thumbnails", "Pillow pictures"),
    python("threads", "12 threads with buffers"),
    python("sockets", "asyncio server and clients"),
    python("arrays", "numpy temporaries"),
    python("sparse", "numpy and scipy, sparse"),
    python("grow_shrink", "a table that grows and shrinks"),
    Program {
        name: "worker",
        kind: "Celery worker with Redis",
        start: Start::Celery,
    },
    Program {
        name: "blobs",
        kind: "a C program with realloc",
        start: Start::C,
    },
];

/// Programs of a few seconds whose cause is known: they are looked at once, and not recorded.
pub(super) const CASES: [Program; 4] = [
    python("survivors", "each seventh block of one size stays"),
    python("spike", "one in fifty blocks of mixed sizes stays"),
    python("pool_buffers", "48 threads with large buffers"),
    python("parts", "parts of 160 KiB, dropped"),
];

/// Python packages that the programs import, at the versions that were measured.
const PACKAGES: [&str; 7] = [
    "celery[redis]==5.7.0",
    "lxml==6.1.3",
    "numpy==2.4.6",
    "pandas==3.1.1",
    "pillow==13.0.0",
    "scipy==1.17.1",
    "sqlalchemy==2.1.9",
];

/// Debian packages that are used.
const DEBIAN_PACKAGES: [&str; 6] = [
    "gcc",
    "libjemalloc2",
    "libmimalloc2.0",
    "libtcmalloc-minimal4",
    "python3-venv",
    "redis-server",
];

/// Where the programs are, and the tools that run them.
pub(super) struct Tools {
    /// Python with the packages.
    pub(super) python: PathBuf,
    /// The folder of the sources.
    pub(super) sources: PathBuf,
    /// The directory of all generated files, kept between runs.
    pub(super) made: PathBuf,
}

impl Tools {
    /// Installs what is missing for these programs: Debian packages as root, Python's into a virtual
    /// environment.
    pub(super) fn install(programs: &[&Program]) -> Result<Self> {
        crate::test::install(&DEBIAN_PACKAGES)?;
        let made = root().join("target/accuracy");
        let python = made.join("venv/bin/python");
        let ready = Command::new(&python)
            .args([
                "-c",
                "import celery, lxml, pandas, PIL, redis, scipy, sqlalchemy",
            ])
            .output()
            .is_ok_and(|out| out.status.success());
        let is_wanted = programs.iter().any(|program| program.start != Start::C);
        if is_wanted && !ready {
            std::fs::create_dir_all(&made)?;
            let mut venv = Command::new("/usr/bin/python3");
            run_command(venv.args(["-m", "venv"]).arg(made.join("venv")))?;
            let mut pip = Command::new(&python);
            pip.args(["-m", "pip", "install", "--quiet"]);
            run_command(pip.arg("--disable-pip-version-check").args(PACKAGES))?;
        }
        Ok(Self {
            python,
            sources: root().join("xtask/accuracy/programs"),
            made,
        })
    }

    /// The command line of the process that is compared.
    pub(super) fn command(&self, program: &Program) -> Result<Vec<PathBuf>> {
        let python = |words: &[&str]| {
            let words = words.iter().map(PathBuf::from);
            std::iter::once(self.python.clone()).chain(words).collect()
        };
        Ok(match program.start {
            Start::Python => vec![self.python.clone(), self.source(program.name, "py")],
            Start::C => vec![self.compile(program.name)?],
            Start::Celery => python(&[
                "-m",
                "celery",
                "--quiet",
                "-A",
                "worker_tasks",
                "worker",
                "--pool",
                "solo",
                "--loglevel",
                "ERROR",
                "--without-gossip",
                "--without-mingle",
                "--without-heartbeat",
            ]),
        })
    }

    /// The script that sends tasks to the Celery worker.
    pub(super) fn script(&self) -> PathBuf {
        self.source("worker_script", "py")
    }

    fn source(&self, name: &str, ending: &str) -> PathBuf {
        self.sources.join(name).with_extension(ending)
    }

    fn compile(&self, name: &str) -> Result<PathBuf> {
        let binary = self.made.join(name);
        let mut gcc = Command::new("gcc");
        gcc.args(["-O2", "-o"]).arg(&binary);
        run_command(gcc.arg(self.source(name, "c")))?;
        Ok(binary)
    }
}

/// The shared object of an allocator of Debian's.
pub(super) fn library(name: &str) -> PathBuf {
    Path::new("/usr/lib")
        .join(format!("{}-linux-gnu", std::env::consts::ARCH))
        .join(name)
}
