//! `lockstep lab`: two nodes, a client and their cables on one machine.
//!
//! For trying Lockstep, for the demonstration and for the tests. Everything is made of namespaces:
//! `supervisor` is PID 1 of a PID namespace and ends everything with itself, each machine is a
//! PID namespace in that, so a power loss is one SIGKILL, and `cables` are veth pairs. As root
//! or in a user namespace of its own. It knows the agents only by their program and their status.

mod cables;
mod control;
mod disk;
mod exec;
mod freeze;
mod generate;
mod layout;
mod machine;
mod namespace;
mod route;
pub mod sniffer;
mod spec;
mod supervisor;
mod up;
mod watch;

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use serde_json::json;

pub use control::{AgentAction, Power};
pub use layout::{
    APP_PORT, Cable, DIRECT_INTERFACE, Direction, Home, Host, LAN_INTERFACE, Node, PAIR, VIP, VIP6,
    direct_addresses, lan_addresses, lan_mac,
};
pub use spec::{Disk, Ipv6, Order};

use control::{Reply, Request, ask};

/// Stands for the configuration that `lab up` makes itself.
const GENERATED: &str = "generated";
/// Exit code of what was done.
const EXIT_DONE: u8 = 0;
/// Exit code of a lab whose nodes were not in sync in time.
const EXIT_TIMED_OUT: u8 = 5;

/// `lockstep lab`
#[derive(Debug, Args)]
pub struct LabCommand {
    /// Several labs can run side by side, each with its name
    #[arg(long, global = true, default_value = "lab")]
    pub name: String,
    /// What to do
    #[command(subcommand)]
    pub verb: LabVerb,
}

/// What `lockstep lab` can do.
#[derive(Debug, Subcommand)]
pub enum LabVerb {
    /// Start two nodes, a client and their cables; returns once both nodes are in sync
    #[command(after_help = "Examples:\n  lockstep lab up\n  lockstep lab up --app \"python3 server.py\"")]
    Up(Up),
    /// Run a command on a node or on the client: `lockstep lab exec a -- lockstep status`
    #[command(
        after_help = "Examples:\n  lockstep lab exec a -- lockstep status\n  lockstep lab exec c -- curl -s http://10.77.0.10:8080/"
    )]
    Exec {
        /// The machine
        host: Host,
        /// The command and its arguments
        #[arg(last = true, required = true)]
        command: Vec<OsString>,
    },
    /// Show the virtual address and the nodes
    #[command(after_help = "Examples:\n  lockstep lab status\n  lockstep lab status --json")]
    Status {
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// Pull a node's plug: its cables go dead and all its processes end at once
    #[command(after_help = "Examples:\n  lockstep lab power-off a")]
    PowerOff {
        /// The node
        node: Node,
    },
    /// Switch a node on again, with the disk it had
    #[command(after_help = "Examples:\n  lockstep lab power-on a")]
    PowerOn {
        /// The node
        node: Node,
        /// Without its agent, to look at what the power left; `lab agent start` starts it
        #[arg(long, hide = true)]
        no_agent: bool,
    },
    /// Hang a node: all its processes stand still, its kernel goes on answering
    #[command(after_help = "Examples:\n  lockstep lab freeze a")]
    Freeze {
        /// The node
        node: Node,
    },
    /// Let a frozen node go on
    #[command(after_help = "Examples:\n  lockstep lab thaw a")]
    Thaw {
        /// The node
        node: Node,
    },
    /// Cut a node's cable, or one direction of it
    #[command(after_help = "Examples:\n  lockstep lab cut direct a\n  lockstep lab cut lan b --one-way in")]
    Cut(Cut),
    /// Mend a node's cable
    #[command(after_help = "Examples:\n  lockstep lab mend direct a")]
    Mend(Cut),
    /// End the lab and remove everything it made
    #[command(after_help = "Examples:\n  lockstep lab down")]
    Down,
    /// Limit the direct cable to so many Mbit/s each way; 0 for no limit
    #[command(hide = true)]
    Shape {
        /// The cable
        cable: Cable,
        /// Mbit/s
        rate_mbit: u32,
    },
    /// Treat a node's agent alone
    #[command(hide = true)]
    Agent {
        /// What to do
        action: AgentAction,
        /// The node
        node: Node,
    },
    /// Watch who sends from the virtual address; `sniff-stop` prints what was seen
    #[command(hide = true)]
    SniffStart,
    /// End watching and print what was seen as JSON
    #[command(hide = true)]
    SniffStop,
}

/// `lockstep lab up`
#[derive(Debug, Args)]
pub struct Up {
    /// Folder with a.toml and b.toml; without it they are generated
    // Its default outranks that of the global option with the same name.
    #[arg(long, value_name = "DIR", default_value = GENERATED)]
    config: PathBuf,
    /// Where each node's data lies
    #[arg(long, value_enum, default_value = "dir")]
    disk: Disk,
    /// The application, as a shell line; it runs on the active node
    #[arg(long, value_name = "COMMAND")]
    app: Option<String>,
    /// Where the application says that it is well: an http:// address, asked on its node, or a command
    #[arg(long, value_name = "URL|COMMAND", requires = "app")]
    health: Option<String>,
    /// How long commits wait for a standby that is away: for example 30s, or never
    #[arg(long, value_name = "TIME|never")]
    solo_after: Option<String>,
    /// Anything else of the pair's section, as TOML: for example --set 'failover = "manual"'; may be repeated
    #[arg(long, value_name = "KEY = VALUE")]
    set: Vec<String>,
    /// No reader sees a commit of a program under the shim before the standby has it
    #[arg(long)]
    strict: bool,
    /// A tree of files beside the database, `files` in each node's data; with `--tree=with-database` its changes come
    /// before the commits that follow them
    #[arg(long, value_enum, value_name = "ORDER", num_args = 0..=1, require_equals = true, default_missing_value = "independent")]
    tree: Option<Order>,
    /// Timing: metal, default, vm or mse
    #[arg(long)]
    profile: Option<String>,
    /// An IPv6 virtual address beside the other; with `--ipv6=only` everything is IPv6
    #[arg(long, value_enum, num_args = 0..=1, require_equals = true, default_missing_value = "also")]
    ipv6: Option<Ipv6>,
    /// Machines and cables only
    #[arg(long, hide = true)]
    no_agent: bool,
    /// The lab ends, and is removed, when the program that started this command ends
    #[arg(long, hide = true)]
    end_with_caller: bool,
}

/// `lockstep lab cut` and `lockstep lab mend`
#[derive(Debug, Args)]
pub struct Cut {
    /// The cable between the nodes, or the one to the LAN's switch
    cable: Cable,
    /// The node
    node: Node,
    /// Only what the node would receive, or only what it sends; its carrier stays
    #[arg(long, value_name = "DIRECTION")]
    one_way: Option<Direction>,
}

/// What the lab starts itself as: never typed by people.
#[derive(Debug, Subcommand)]
pub enum LabProcess {
    /// The supervisor
    #[command(name = "lab-supervisor", hide = true)]
    Supervisor {
        /// The lab's folder
        home: PathBuf,
        /// The second stage, in the namespaces the first made
        #[arg(long)]
        inside: bool,
        /// The first stage made a user namespace too
        #[arg(long)]
        user_namespace: bool,
        /// Descriptor of the process whose end is the lab's; the first stage is given its number
        #[arg(long)]
        end_with: Option<i32>,
    },
    /// A machine's first process
    #[command(name = "lab-machine", hide = true)]
    Machine {
        /// The machine
        host: Host,
        /// The lab's folder
        home: PathBuf,
    },
    /// The watcher on the switch
    #[command(name = "lab-watch", hide = true)]
    Watch {
        /// The lab's folder
        home: PathBuf,
        /// The client machine's first process
        client: u32,
    },
}

/// Runs one of the lab's own processes. Call it before the program has started any thread.
///
/// # Errors
/// A sentence for the lab's log.
pub fn run_process(process: LabProcess) -> Result<()> {
    match process {
        LabProcess::Supervisor { home, inside: false, end_with, .. } => {
            supervisor::launch(&Home::at(home), end_with)?;
        }
        LabProcess::Supervisor { home, user_namespace, end_with, .. } => {
            supervisor::run(Home::at(home), user_namespace, end_with)?;
        }
        LabProcess::Machine { host, home } => machine::run(host, &Home::at(home))?,
        LabProcess::Watch { home, client } => watch::run(&Home::at(home), client)?,
    }
    Ok(())
}

/// Runs `lockstep lab` and gives its exit code. Call it before the program has started any thread: `exec` enters the
/// machine's namespaces, which the kernel allows to single-threaded processes only.
///
/// # Errors
/// A sentence for the operator with the remedy.
pub fn run(command: LabCommand) -> Result<u8> {
    let home = Home::of(&command.name)?;
    let request = match command.verb {
        LabVerb::Up(up) => return start(&home, &up),
        LabVerb::Exec { host, command } => return exec::run(&home, host, &command),
        LabVerb::Status { json } => return status(&home, json),
        LabVerb::Down => return up::down(&home).map(|()| EXIT_DONE),
        LabVerb::SniffStop => return sniff_stop(&home),
        LabVerb::PowerOff { node } => Request::PowerOff { node },
        LabVerb::PowerOn { node, no_agent } => Request::PowerOn { node, agent: !no_agent },
        LabVerb::Freeze { node } => Request::Freeze { node },
        LabVerb::Thaw { node } => Request::Thaw { node },
        LabVerb::Cut(Cut { cable, node, one_way }) => Request::Cut { cable, node, direction: one_way },
        LabVerb::Mend(Cut { cable, node, one_way }) => Request::Mend { cable, node, direction: one_way },
        LabVerb::Shape { cable: Cable::Lan, .. } => bail!("only the direct cable can be shaped"),
        LabVerb::Shape { cable: Cable::Direct, rate_mbit } => {
            Request::Shape { rate_mbit: (rate_mbit > 0).then_some(rate_mbit) }
        }
        LabVerb::Agent { action, node } => Request::Agent { node, action },
        LabVerb::SniffStart => Request::SniffStart,
    };
    ask(&home, &request)?;
    Ok(EXIT_DONE)
}

fn sniff_stop(home: &Home) -> Result<u8> {
    ask(home, &Request::SniffStop)?;
    let seen = sniffer::Observations::load(&home.observations())?;
    println!("{}", serde_json::to_string(&seen)?);
    Ok(EXIT_DONE)
}

fn start(home: &Home, up: &Up) -> Result<u8> {
    // A file named by LOCKSTEP_CONFIG is this machine's own, not the lab's.
    let of_this_machine =
        std::env::var_os("LOCKSTEP_CONFIG").is_some_and(|file| up.config == Path::new(&file));
    let given = up.config != Path::new(GENERATED) && (!of_this_machine || up.config.is_dir());
    if given && (up.app.is_some() || up.ipv6.is_some() || up.tree.is_some()) {
        bail!(
            "--app, --tree and --ipv6 are for a generated configuration: with --config they belong in a.toml and b.toml"
        );
    }
    let wishes = generate::Wishes {
        config: given.then_some(up.config.as_path()),
        app: up.app.as_deref(),
        health: up.health.as_deref(),
        solo_after: up.solo_after.as_deref(),
        set: &up.set,
        strict: up.strict,
        tree: up.tree,
        profile: up.profile.as_deref(),
        ipv6: up.ipv6,
        disk: up.disk,
        agents: !up.no_agent,
        end_with_caller: up.end_with_caller,
    };
    match up::up(home, &wishes) {
        Err(e) if e.is::<up::NotInSync>() => {
            eprintln!("{e:#}");
            Ok(EXIT_TIMED_OUT)
        }
        other => other.map(|()| EXIT_DONE),
    }
}

fn status(home: &Home, as_json: bool) -> Result<u8> {
    let (Reply::Power { a, b }, _) = ask(home, &Request::Power)? else {
        bail!("the lab's supervisor answered something else");
    };
    let spec = spec::Spec::load(home)?;
    let url = spec.vip.first().map(|vip| match vip {
        std::net::IpAddr::V4(vip) => format!("http://{vip}:{APP_PORT}/"),
        std::net::IpAddr::V6(vip) => format!("http://[{vip}]:{APP_PORT}/"),
    });
    let of_node = |node: Node, power: Power| {
        let by_name = |of: &[Vec<(String, PathBuf)>; 2]| {
            let pairs = of[node as usize].iter().map(|(name, path)| (name.clone(), json!(path)));
            pairs.collect::<serde_json::Map<_, _>>()
        };
        json!({
            "power": power,
            "addresses": {
                "lan": lan_addresses(layout::lan_number(node.into())),
                "direct": direct_addresses(node),
            },
            "state_dir": home.state(node),
            "databases": by_name(&spec.databases),
            "trees": by_name(&spec.trees),
        })
    };
    let nodes = json!({"a": of_node(Node::A, a), "b": of_node(Node::B, b)});
    if as_json {
        println!("{}", json!({"vip": spec.vip, "url": url, "nodes": nodes}));
        return Ok(EXIT_DONE);
    }
    let vip: Vec<String> = spec.vip.iter().map(ToString::to_string).collect();
    println!("virtual address {}, {}", vip.join(" and "), url.unwrap_or_default());
    for (node, power) in [(Node::A, a), (Node::B, b)] {
        let power = json!(power);
        println!(
            "node {}: power {}, state in {}",
            node.name(),
            power.as_str().unwrap_or("?"),
            home.state(node).display()
        );
    }
    Ok(EXIT_DONE)
}
