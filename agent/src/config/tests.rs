//! Every rule of the configuration, broken once.

use super::*;

const FILE: &str = "/etc/lockstep/lockstep.toml";

fn parse(text: &str) -> Result<Config, ConfigErrors> {
    Config::parse(text, Path::new(FILE))
}

/// The example with one piece replaced.
fn example(from: &str, to: &str) -> String {
    assert!(EXAMPLE.contains(from), "the example has no {from}");
    EXAMPLE.replacen(from, to, 1)
}

/// Expects exactly one fault, whose single line has all of `words`.
#[track_caller]
fn refused(from: &str, to: &str, words: &[&str]) {
    let errors = parse(&example(from, to)).expect_err("it was accepted");
    assert_eq!(errors.0.len(), 1, "{errors}");
    let line = errors.to_string();
    assert!(line.starts_with(FILE) && line.lines().count() == 1 && line.contains("; "), "{line}");
    for word in words {
        assert!(line.contains(word), "expected {word:?} in: {line}");
    }
}

/// Expects no fault but this warning.
#[track_caller]
fn warned(from: &str, to: &str, words: &[&str]) {
    let config = parse(&example(from, to)).unwrap_or_else(|e| panic!("{e}"));
    let hit = config.warnings.iter().any(|line| words.iter().all(|word| line.contains(word)));
    assert!(hit, "{:?}", config.warnings);
}

const TARGETS: &str = r#"targets = ["10.0.0.1", "10.0.0.2", "10.0.0.3"]"#;
const DIRECT: &str = "interface = \"eth1\"\n# Own address on it and the other node's.\naddress = \"192.168.77.1\"\npeer = \"192.168.77.2\"\n# UDP for heartbeats and TCP for data; the same on both nodes.\nport = 7431\n";

#[test]
fn the_example_is_sound_and_without_warnings() {
    let config = parse(EXAMPLE).unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(config.warnings, Vec::<String>::new());
    let pair = &config.pairs[0];
    assert_eq!(pair.commit_mode, Mode::Durable);
    assert_eq!(pair.databases[0].path(Role::Secondary), Path::new("/srv/shop/orders.db"));
    assert_eq!(pair.apps[0].run, AppRun::Unit("shop.service".into()));
    assert_eq!(config.pair(&"shop".parse().unwrap()), Some(pair));
}

#[test]
fn solo_after_is_a_time_or_never_and_nothing_by_default() {
    let of = |to: &str| parse(&example("solo_after = \"0s\"", to)).expect("it is sound").pairs[0].solo_after;
    let delay = |ms| SoloAfter::Delay(Duration::from_millis(ms));
    assert_eq!(of(""), delay(0));
    assert_eq!(of("solo_after = \"30s\""), delay(30_000));
    assert_eq!(of("solo_after = \"500ms\""), delay(500));
    assert_eq!(of("solo_after = \"never\""), SoloAfter::Never);
}

#[test]
fn strict_is_off_unless_it_is_asked_for() {
    let of = |to: &str| parse(&example("strict = false", to)).expect("it is sound").pairs[0].strict;
    assert!(!of(""));
    assert!(of("strict = true"));
}

/// The raw structs are the list of knobs: serde tells their fields when a key is unknown.
#[test]
fn the_example_explains_every_knob() {
    let sections = [
        ("[node]\n", "[node]\nzzz = 1\n"),
        ("[[pair]]\n", "[[pair]]\nzzz = 1\n"),
        ("[pair.direct]\n", "[pair.direct]\nzzz = 1\n"),
        ("[pair.lan]\n", "[pair.lan]\nzzz = 1\n"),
        ("[pair.link]\n", "[pair.link]\nzzz = 1\n"),
        ("# [pair.witness]\n", "[pair.witness]\nzzz = 1\n"),
        ("# [pair.fence]\n", "[pair.fence]\nzzz = 1\n"),
        ("[[pair.database]]\n", "[[pair.database]]\nzzz = 1\n"),
        ("[[pair.tree]]\n", "[[pair.tree]]\nzzz = 1\n"),
        ("[[pair.app]]\n", "[[pair.app]]\nzzz = 1\n"),
    ];
    let mut knobs = 0;
    for (from, to) in &sections {
        let error = parse(&example(from, to)).expect_err("zzz is unknown").to_string();
        let (_, fields) = error.split_once("expected").unwrap_or_else(|| panic!("{error}"));
        for field in fields.split('`').skip(1).step_by(2).take_while(|word| !word.contains(' ')) {
            let section = to.lines().next().unwrap();
            let mark = |prefix: &str| EXAMPLE.split_once(&format!("\n{prefix}{section}\n"));
            let body = mark("").or_else(|| mark("# ")).unwrap().1;
            let end = ["\n[[", "\n[", "\n# ["]
                .iter()
                .filter_map(|mark| body.find(mark))
                .min()
                .unwrap_or(body.len());
            let as_key = |line: &str| line.trim_start_matches("# ").starts_with(&format!("{field} = "));
            let as_section = EXAMPLE.contains(&format!("[pair.{field}]"));
            assert!(as_section || body[..end].lines().any(as_key), "{section} {field} is not in the example");
            knobs += 1;
        }
    }
    assert!(knobs >= 46, "only {knobs} knobs were looked at");
}

#[test]
fn an_unknown_key_is_an_error_with_its_line() {
    refused("hold_off_s = 0", "hold_of_s = 0", &["line", "unknown field `hold_of_s`", "config --example"]);
}

#[test]
fn broken_toml_is_an_error_with_its_line() {
    refused("[pair.lan]", "[pair.lan", &["line", "config --example"]);
}

#[test]
fn a_value_of_the_wrong_kind_is_an_error() {
    refused("role = \"primary\"", "role = \"master\"", &["unknown variant `master`", "primary"]);
    refused("port = 7431", "port = 74310", &["line", "74310"]);
}

#[test]
fn a_vip_equal_to_a_node_address_is_refused() {
    refused("10.0.0.10/24", "10.0.0.11/24", &["vip", "10.0.0.11 is also an address of a node", "its own"]);
    refused("10.0.0.10/24", "10.0.0.12/24", &["vip", "10.0.0.12 is also an address of a node"]);
}

#[test]
fn a_vip_without_a_mask_is_refused() {
    refused("10.0.0.10/24", "10.0.0.10", &["vip", "10.0.0.10 has no mask", "10.0.0.10/24"]);
    refused("10.0.0.10/24", "10.0.0.10/33", &["vip", "expected an address with its mask"]);
    refused("10.0.0.10/24", "shop", &["vip", "expected an address with its mask"]);
    refused("10.0.0.10/24", "224.0.0.1/24", &["vip", "unicast"]);
    refused("[\"10.0.0.10/24\"]", "[]", &["vip", "at least one"]);
}

#[test]
fn the_same_interface_for_both_links_is_refused() {
    refused("\"eth1\"", "\"eth0\"", &["direct.interface", "eth0 is also the LAN interface", "none"]);
}

#[test]
fn the_same_address_on_both_links_is_refused() {
    refused("\"192.168.77.1\"", "\"10.0.0.11\"", &["direct.address", "10.0.0.11 is also used on the LAN"]);
    refused("\"192.168.77.2\"", "\"10.0.0.12\"", &["direct.address", "10.0.0.12 is also used on the LAN"]);
}

#[test]
fn a_peer_that_is_oneself_or_of_another_family_is_refused() {
    refused("peer = \"10.0.0.12\"", "peer = \"10.0.0.11\"", &["lan.peer", "own address"]);
    refused("peer = \"10.0.0.12\"", "peer = \"fd00::2\"", &["lan.peer", "same family"]);
    refused("address = \"10.0.0.11\"", "address = \"0.0.0.0\"", &["lan.address", "unicast"]);
    refused("peer = \"10.0.0.12\"\n", "", &["lan.peer", "found nothing"]);
}

#[test]
fn an_even_target_list_is_refused() {
    refused(
        TARGETS,
        r#"targets = ["10.0.0.1", "10.0.0.2"]"#,
        &["targets", "odd number", "found 2", "add or remove"],
    );
}

#[test]
fn an_empty_target_list_is_refused() {
    refused(TARGETS, "targets = []", &["targets", "found none", "1, 3 or 5"]);
}

#[test]
fn a_single_target_is_a_warning_and_too_short_without_a_direct_link() {
    warned(TARGETS, r#"targets = ["10.0.0.1"]"#, &["targets", "a single target"]);
    let alone = example(DIRECT, "interface = \"none\"\n").replace(TARGETS, r#"targets = ["10.0.0.1"]"#);
    let errors = parse(&alone).unwrap_err().to_string();
    assert!(errors.contains("at least 3 addresses, found 1") && errors.lines().count() == 1, "{errors}");
    let manual = alone.replace("failover = \"automatic\"", "failover = \"manual\"");
    assert_eq!(parse(&manual).unwrap().pairs[0].direct, None);
}

#[test]
fn targets_that_are_no_targets_are_refused() {
    refused("\"10.0.0.3\"]", "\"10.0.0.2\"]", &["targets", "10.0.0.2 occurs twice"]);
    refused("\"10.0.0.3\"]", "\"10.0.0.10\"]", &["targets", "belongs to this pair"]);
    refused("\"10.0.0.3\"]", "\"10.0.0.3/24\"]", &["targets", "without mask"]);
    warned("\"10.0.0.3\"]", "\"10.9.9.9\"]", &["targets", "10.9.9.9", "outside"]);
}

#[test]
fn a_bad_fingerprint_is_refused() {
    refused(
        "sha256:0011",
        "sha256:00xx",
        &["peer_fingerprint", "64 hexadecimal digits", "lockstep identity"],
    );
    refused("sha256:0011", "0011", &["peer_fingerprint", "64 hexadecimal digits"]);
}

#[test]
fn a_missing_fingerprint_is_refused() {
    let line = EXAMPLE.lines().find(|line| line.starts_with("peer_fingerprint")).unwrap();
    refused(line, "", &["peer_fingerprint", "found nothing", "lockstep identity"]);
}

#[test]
fn an_address_outside_the_vips_subnet_is_a_warning() {
    warned("\"10.0.0.11\"", "\"10.0.9.11\"", &["lan.address", "10.0.9.11 is outside the VIP's subnet"]);
}

#[test]
fn metal_without_a_direct_link_is_refused() {
    let text =
        example(DIRECT, "interface = \"none\"\n").replace("profile = \"default\"", "profile = \"metal\"");
    let errors = parse(&text).unwrap_err().to_string();
    assert!(errors.contains("\"metal\" expects a cable") && errors.lines().count() == 1, "{errors}");
}

#[test]
fn no_direct_link_is_said_and_not_left_out() {
    assert_eq!(parse(&example(DIRECT, "interface = \"none\"\n")).unwrap().pairs[0].direct, None);
    refused("interface = \"eth1\"", "interface = \"none\"", &["direct", "remove it"]);
    refused(&format!("[pair.direct]\n{DIRECT}"), "", &["direct", "interface = \"none\""]);
}

#[test]
fn bad_names_are_refused() {
    refused("id = \"shop\"", "id = \"Shop\"", &["id", "is not a name"]);
    refused("name = \"orders\"", "name = \"or ders\"", &["name", "is not a name"]);
    refused("name = \"alpha\"", "name = \"al pha\"", &["node.name", "is not a node name"]);
    refused("platform = \"generic\"", "platform = \"vax\"", &["node.platform", "generic"]);
    refused("interface = \"eth0\"", "interface = \"a/b\"", &["lan.interface", "not an interface name"]);
    refused("commit_mode = \"durable\"", "commit_mode = \"maybe\"", &["commit_mode", "maybe", "\"durable\""]);
}

#[test]
fn duplicate_names_and_paths_are_refused() {
    let database = |name: &str, path: &str| {
        example(
            "# A program that",
            &format!("[[pair.database]]\nname = \"{name}\"\nprimary = \"{path}\"\n# A program"),
        )
    };
    let one = |text: &str, word: &str| {
        let errors = parse(text).unwrap_err();
        assert!(errors.to_string().contains(word), "{errors}");
    };
    one(&database("orders", "/srv/shop/other.db"), "name: \"orders\" occurs twice");
    one(&database("other", "/srv/shop/orders.db"), "primary: /srv/shop/orders.db occurs twice");
    let app = format!("{EXAMPLE}\n[[pair.app]]\nname = \"web\"\ncommand = \"true\"\n");
    one(&app, "app name: \"web\" occurs twice");
    let body = &EXAMPLE[EXAMPLE.find("[[pair]]").unwrap()..];
    let twice = format!("{EXAMPLE}\n{body}");
    for word in ["pair id: \"shop\"", "pair vip: 10.0.0.10", "10.0.0.11 port 7431", "/srv/shop/orders.db"] {
        one(&twice, &format!("{word} occurs twice"));
    }
}

#[test]
fn relative_database_paths_are_refused() {
    refused("primary = \"/srv", "primary = \"srv", &["primary", "absolute path", "srv/shop/orders.db"]);
    refused("secondary = \"/srv", "secondary = \"/srv/..", &["secondary", "absolute path"]);
}

#[test]
fn limits_that_make_no_sense_are_refused() {
    for wrong in ["soon", "30", "-1s", "1.5s", "90000s", "18446744073709551615ms", ""] {
        let to = format!("solo_after = \"{wrong}\"");
        refused("solo_after = \"0s\"", &to, &["solo_after", "never", "30s"]);
    }
    refused("hold_off_s = 0", "hold_off_s = 121", &["hold_off_s", "0 to 120", "manual"]);
    refused("checkpoint_frames = 1000", "checkpoint_frames = 0", &["checkpoint_frames", "at least 1"]);
    refused("wal_retain_max_mib = 1024", "wal_retain_max_mib = 0", &["wal_retain_max_mib", "at least 1"]);
    refused("port = 7431", "port = 0", &["direct.port", "1 to 65535"]);
}

#[test]
fn an_application_is_a_unit_or_a_command() {
    refused("unit = \"shop.service\"", "", &["app \"web\"", "either unit or command"]);
    refused("unit = \"shop.service\"", "unit = \"-h\"", &["unit", "not a systemd unit"]);
    refused("unit = \"shop.service\"", "command = []", &["command", "a program and its arguments"]);
    for wrong in
        ["https://127.0.0.1/", "tcp://127.0.0.1", "tcp://:80", "tcp://h:0", "tcp://h:70000", "http://"]
    {
        refused(
            "\"http://127.0.0.1:80/health\"",
            &format!("\"{wrong}\""),
            &["health", "http:// address", wrong],
        );
    }
    let of = |to: &str| {
        parse(&example("\"http://127.0.0.1:80/health\"", to)).unwrap().pairs[0].apps[0].health.clone()
    };
    assert_eq!(of("\"tcp://[::1]:80\""), Some(Health::Tcp("[::1]:80".into())));
    let text = example("unit = \"shop.service\"", "command = \"sleep 1 && true\"");
    let shell = ["/bin/sh", "-c", "sleep 1 && true"].map(String::from).to_vec();
    assert_eq!(parse(&text).unwrap().pairs[0].apps[0].run, AppRun::Command(shell));
}

#[test]
fn the_example_watches_an_application_as_one_that_says_nothing_is_watched() {
    assert_eq!(parse(EXAMPLE).unwrap().pairs[0].apps[0].watch, DEFAULT_WATCH);
    let text = example("health_failures = 3\n", "").replace("restarts = 3", "restarts = 0");
    let watch = parse(&text).unwrap().pairs[0].apps[0].watch;
    assert_eq!((watch.failures, watch.restarts), (DEFAULT_WATCH.failures, 0));
    let keys = [
        "health_interval_ms = 1000",
        "health_timeout_ms = 2000",
        "health_failures = 3",
        "health_successes = 1",
    ];
    for key in keys.into_iter().chain(["restart_window_s = 600", "start_timeout_s = 60"]) {
        let name = key.split(' ').next().unwrap();
        refused(key, &format!("{name} = 0"), &[name, "at least", "leave it out"]);
    }
}

#[test]
fn failback_is_the_operators_unless_it_is_automatic_after_a_time() {
    let of = |text: &str| parse(text).unwrap().pairs[0].failback_after;
    assert_eq!(of(EXAMPLE), None);
    let automatic = example("failback = \"manual\"", "failback = \"automatic\"");
    assert_eq!(of(&automatic), Some(Duration::from_secs(300)));
    assert_eq!(of(&automatic.replace("after_s = 300", "after_s = 5")), Some(Duration::from_secs(5)));
    warned("after_s = 300", "after_s = 5", &["failback_after_s", "no effect", "manual"]);
}

#[test]
fn a_pair_needs_a_database_and_a_node_needs_a_pair() {
    let errors = parse("[node]\nname = \"a\"\nrole = \"primary\"\n").unwrap_err().to_string();
    assert!(errors.contains("pair: expected at least one [[pair]]"), "{errors}");
    let from = EXAMPLE.find("[[pair.database]]").unwrap();
    let to = EXAMPLE.find("[[pair.app]]").unwrap();
    let errors = parse(&format!("{}{}", &EXAMPLE[..from], &EXAMPLE[to..])).unwrap_err().to_string();
    assert!(errors.contains("at least one [[pair.database]]"), "{errors}");
}

#[test]
fn all_faults_are_told_at_once_one_line_each() {
    let text = example(TARGETS, "targets = []")
        .replace("10.0.0.10/24", "10.0.0.10")
        .replace("hold_off_s = 0", "hold_off_s = 900");
    let errors = parse(&text).unwrap_err();
    assert_eq!((errors.0.len(), errors.to_string().lines().count()), (3, 3), "{errors}");
}

#[test]
fn a_missing_file_names_the_remedy() {
    let error = Config::load(Path::new("/nowhere/lockstep.toml")).unwrap_err().to_string();
    assert!(error.contains("/nowhere/lockstep.toml") && error.contains("config --example"), "{error}");
}

/// A second tree behind the example's.
fn second_tree(keys: &str) -> String {
    format!("[[pair.tree]]\nname = \"more\"\n{keys}\n\n# A program that uses the databases")
}

#[test]
fn a_tree_is_read_with_its_defaults() {
    let text = example("# A program that uses the databases", &second_tree("primary = \"/srv/more\""));
    let trees = &parse(&text).unwrap_or_else(|e| panic!("{e}")).pairs[0].trees;
    assert_eq!((trees[0].order, trees[1].order), (TreeOrder::Independent, TreeOrder::Independent));
    assert_eq!(trees[1].path(Role::Secondary), Path::new("/srv/more"));
    assert_eq!((trees[1].delete_max_percent, trees[1].bandwidth_max_mbit_s), (80, None));
    let with = parse(&example("order = \"independent\"", "order = \"with-database\"")).expect("it is sound");
    assert_eq!(with.pairs[0].trees[0].order, TreeOrder::WithDatabase);
}

#[test]
fn trees_that_cannot_be_are_refused() {
    const ROOTS: &str = "primary = \"/srv/shop/uploads\"\nsecondary = \"/srv/shop/uploads\"";
    refused(ROOTS, "primary = \"uploads\"", &["tree \"uploads\" primary", "absolute path"]);
    refused(ROOTS, "primary = \"/\"", &["absolute path"]);
    refused(ROOTS, "primary = \"/srv/x/.lockstep/y\"", &["Lockstep's own directory"]);
    refused(ROOTS, "primary = \"/srv/shop/orders.db\"", &["is the file of database \"orders\""]);
    refused(
        ROOTS,
        "primary = \"/srv/shop\"\nsecondary = \"/srv/other\"",
        &["secondary", "database \"orders\" lies in it on one node", "the same place"],
    );
    refused("name = \"uploads\"", "name = \"Uploads\"", &["tree \"Uploads\" name"]);
    refused("\"/cache\"]", "\"a[\"]", &["exclude", "\"a[\" is no pattern"]);
    refused("delete_max_percent = 80", "delete_max_percent = 0", &["delete_max_percent", "1 to 100"]);
    refused("order = \"independent\"", "order = \"first\"", &["unknown variant `first`", "with-database"]);
    let strict = example("strict = false", "strict = true").replace("\"independent\"", "\"with-database\"");
    let errors = parse(&strict).unwrap_err().to_string();
    assert!(errors.contains("strict = true") && errors.lines().count() == 1, "{errors}");
    for (second, role) in [
        ("primary = \"/srv/shop/uploads/deep\"\nsecondary = \"/srv/more\"", "primary"),
        ("primary = \"/srv/more\"\nsecondary = \"/srv\"", "secondary"),
    ] {
        let text = example("# A program that uses the databases", &second_tree(second));
        let errors = parse(&text).unwrap_err().to_string();
        assert!(errors.contains("overlap") && errors.contains(&format!("tree {role}")), "{errors}");
    }
}

#[test]
fn a_tree_may_hold_the_database_in_the_same_place() {
    let text = example(
        "primary = \"/srv/shop/uploads\"\nsecondary = \"/srv/shop/uploads\"",
        "primary = \"/srv/shop\"",
    );
    assert!(parse(&text).is_ok());
}

#[test]
fn trees_clear_of_lockstep_and_of_each_other_are_looked_for_on_this_machine() {
    let dir = tempfile::tempdir().expect("a temporary folder");
    let at = |name: &str| dir.path().join(name);
    std::fs::create_dir_all(at("uploads/state")).expect("a folder");
    std::os::unix::fs::symlink(at("uploads"), at("link")).expect("a symlink");
    let paths = Paths { config: FILE.into(), state_dir: at("lib"), runtime_dir: at("run") };
    let config = |root: &Path| {
        let mut config = parse(EXAMPLE).expect("it is sound");
        config.pairs[0].trees[0].primary = root.to_owned();
        config
    };
    assert_eq!(config(&at("uploads")).check_places(&paths).expect("it is sound"), Vec::<String>::new());
    let warned = config(&at("none")).check_places(&paths).expect("it may come later");
    assert!(warned.len() == 1 && warned[0].contains("create or mount it"), "{warned:?}");
    let inside = Paths { state_dir: at("link/state"), ..paths.clone() };
    let errors = config(&at("uploads")).check_places(&inside).unwrap_err().to_string();
    assert!(errors.contains("Lockstep's state directory") && errors.lines().count() == 1, "{errors}");
    let mut twice = config(&at("uploads"));
    let again = Tree {
        name: "more".parse().expect("a name"),
        primary: at("link"),
        ..twice.pairs[0].trees[0].clone()
    };
    twice.pairs[0].trees.push(again);
    let errors = twice.check_places(&paths).unwrap_err().to_string();
    assert!(errors.contains("share a directory"), "{errors}");
}

const WITNESS: &str = "[pair.witness]\nendpoints = [\"http://10.0.0.5:2379\"]\n";
const FENCE: &str = "[pair.fence]\nagent = \"fence_ipmilan\"\noptions = { ip = \"10.0.9.2\" }\n";

#[test]
fn who_decides_is_optional_and_has_sane_defaults() {
    let pair = |text: &str| {
        let text = example("[[pair.app]]", &format!("{text}[[pair.app]]"));
        parse(&text).expect("sound").pairs.remove(0)
    };
    let none = pair("");
    assert_eq!((none.witness, none.fence), (None, None));
    let witness = pair(WITNESS).witness.expect("a witness");
    assert_eq!((witness.key.as_str(), witness.timeout), ("/lockstep/shop", Duration::from_secs(1)));
    let fence = pair(FENCE).fence.expect("a fence");
    assert_eq!((fence.agent.as_str(), fence.timeout), ("fence_ipmilan", Duration::from_secs(20)));
    assert_eq!(fence.options["ip"], "10.0.9.2");
}

#[test]
fn who_decides_is_checked_and_no_secret_is_shown() {
    let cases = [
        (WITNESS, "[\"http://10.0.0.5:2379\"]", "[]", "expected 1 to 9 addresses"),
        (WITNESS, "http://10.0.0.5:2379", "10.0.0.5:2379", "expected http:// or https://"),
        (WITNESS, "http://10.0.0.5:2379", "http://10.0.0.5:2379/v3", "expected http:// or https://"),
        (WITNESS, "http://10", "https://10", "https:// address needs it"),
        (WITNESS, "endpoints", "timeout_ms = 0\nendpoints", "expected 1 to 10000 ms"),
        (WITNESS, "endpoints", "certificate = \"/a.pem\"\nendpoints", "private_key belong together"),
        (WITNESS, "endpoints", "user = \"a\"\nendpoints", "password_file belong together"),
        (WITNESS, "endpoints", "ca = \"a.pem\"\nendpoints", "absolute path"),
        (FENCE, "fence_ipmilan", "./fence", "a name or an absolute path"),
        (FENCE, "ip =", "action =", "given by Lockstep"),
        (FENCE, "ip = \"10.0.9.2\"", "password = \"two\\nlines\"", "one line for each option"),
        (FENCE, "agent", "timeout_s = 0\nagent", "expected 1 to 120 seconds"),
    ];
    for (section, from, to, says) in cases {
        assert!(section.contains(from), "{section} has no {from}");
        let text = format!("{}[[pair.app]]", section.replacen(from, to, 1));
        let error = parse(&example("[[pair.app]]", &text)).expect_err(to).to_string();
        assert!(error.contains(says) && !error.contains("two"), "{to}: {error}");
    }
}
