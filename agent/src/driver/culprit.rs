//! Who may have taken an address away: programs that manage interfaces and run on this machine.

use std::path::Path;

/// Names of processes, as /proc shows them (15 bytes at most), and what keeps each off an address.
const MANAGERS: [(&str, &str); 9] = [
    ("NetworkManager", "tell it `unmanaged-devices` for this interface"),
    ("systemd-network", "set `KeepConfiguration=yes` in the .network file of this interface"),
    ("dhcpcd", "add `denyinterfaces` for this interface"),
    ("dhclient", "give this interface a static address"),
    ("udhcpc", "give this interface a static address"),
    ("connmand", "add this interface to its `NetworkInterfaceBlacklist`"),
    ("keepalived", "remove the address from its configuration: two programs cannot both move it"),
    ("ucarp", "stop it: two programs cannot both move the address"),
    ("pacemakerd", "remove the address from its resources: two programs cannot both move it"),
];

/// One half of a sentence that names the likely one and the remedy.
pub(super) fn likely(proc: &Path) -> String {
    let running: Vec<String> = std::fs::read_dir(proc)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| std::fs::read_to_string(entry.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect();
    let found = MANAGERS.iter().find(|(name, _)| running.iter().any(|one| one == name));
    match found {
        Some((name, remedy)) => format!("{name} runs here and is the likely one: {remedy}"),
        None => {
            "no network manager runs here: somebody's command, or a script such as ifdown, did it".to_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_manager_that_runs_is_named_with_its_remedy() {
        let proc = tempfile::tempdir().expect("a temporary folder");
        let process = |number: &str, name: &str| {
            std::fs::create_dir(proc.path().join(number)).expect("made");
            std::fs::write(proc.path().join(number).join("comm"), format!("{name}\n")).expect("written");
        };
        process("1", "init");
        assert!(likely(proc.path()).contains("no network manager runs here"));
        process("77", "systemd-network");
        assert!(likely(proc.path()).starts_with("systemd-network runs here"), "{}", likely(proc.path()));
        process("78", "NetworkManager");
        assert!(likely(proc.path()).contains("unmanaged-devices"), "{}", likely(proc.path()));
        assert!(MANAGERS.iter().all(|(name, _)| name.len() <= 15));
    }
}
