//! What the table distinguishes, and what it can say.

macro_rules! facet {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),* }

        impl $name {
            /// All values.
            pub const ALL: &'static [Self] = &[$(Self::$variant),*];
        }
    };
}

facet! {
    /// Whose question it is.
    Who {
        /// The node that serves.
        Active,
        /// The node that follows.
        Standby,
        /// A node that does neither: after a start, or after its lease lapsed.
        Cold,
    }
}
facet! {
    /// What is heard of the peer.
    Peer {
        /// On both paths, and it hears us.
        Both,
        /// On the direct link only, and it hears us.
        DirectOnly,
        /// On the LAN only, and it hears us.
        LanOnly,
        /// It is heard and does not hear us (its messages echo nothing recent).
        Deaf,
        /// Nothing on any path.
        Nothing,
        /// It cannot be judged yet: no heartbeat keys.
        Unknown,
    }
}
facet! {
    /// What the VIP probes of this attempt brought.
    Vip {
        /// Not probed yet.
        Unasked,
        /// Nobody answers.
        Silent,
        /// The peer's MAC answers.
        PeerMac,
        /// A foreign MAC answers.
        Foreign,
    }
}
facet! {
    /// What a cold node last was.
    WasKind {
        /// Nothing yet.
        Never,
        /// Active and solo after the grant, or promoted.
        Alone,
        /// Active and in sync.
        InSync,
        /// Standby, outdated, or only intended.
        Followed,
        /// Forced by the operator.
        Forced,
    }
}
facet! {
    /// How the peer's history relates to ours.
    Relation {
        /// Not heard.
        Unheard,
        /// It serves, at our epoch or a higher one.
        Serves,
        /// Higher epoch, does not serve.
        Higher,
        /// Same epoch, does not serve.
        Same,
        /// Lower epoch.
        Lower,
    }
}
facet! {
    /// What the witness, or the fence, said to the wish of this attempt.
    Tie {
        /// There is no witness.
        Free,
        /// It was not asked yet.
        Unasked,
        /// It gave this node the right.
        Won,
        /// It did not, or was not reached; or the peer could not be fenced.
        Lost,
    }
}
facet! {
    /// What to do.
    Verdict {
        /// Go on as you are.
        Stay,
        /// Let time pass.
        Wait,
        /// Ask the network who has the VIP, and the peer whether it lives.
        Probe,
        /// Ask the witness who has the right.
        Arbitrate,
        /// Take over.
        Promote,
        /// Give the service to the standby, without loss (a switchover that nobody asked for).
        HandOver,
        /// Serve at the epoch we have (a fresh pair: claim the first).
        Serve,
        /// Follow the peer.
        Follow,
        /// The operator must decide.
        Ask,
        /// Do nothing, and say so.
        Hold,
    }
}
