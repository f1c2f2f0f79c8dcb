//! What must hold of the state that is private to this room, for the tests' checker (host only).

use crate::{Cpu, Kernel, Sc};

impl Cpu {
    /// What is wrong with this CPU's run queue or deadlines, if anything is.
    pub fn audit(&mut self) -> Option<&'static str> {
        let mut wrong = self.queue.audit(self.id);
        let mut waiting = std::vec::Vec::new();
        let id = self.id;
        let sound = self.deadlines.is_sound(|sc: &Sc| {
            waiting.push(core::ptr::from_ref(sc));
            sc.cpu() == id
        });
        if !sound {
            wrong = Some("deadlines in the wrong place");
        }
        if let Some(sc) = &self.sc
            && (sc.cpu() != self.id || waiting.contains(&core::ptr::from_ref(&**sc)))
        {
            wrong = Some("the running time waits or is not this CPU's");
        }
        wrong
    }
}

impl Kernel {
    /// Bytes of the objects that exist and are charged to a domain: everything but accounts, interrupt tables and the
    /// kernel's own range of ports.
    pub fn audit_bytes(&self) -> u64 {
        let bytes = |live: usize, size: usize| (live * size) as u64;
        bytes(self.pds.live(), self.pds.object_bytes())
            + bytes(self.ecs.live(), self.ecs.object_bytes())
            + bytes(self.scs.live(), self.scs.object_bytes())
            + bytes(self.pts.live(), self.pts.object_bytes())
            + bytes(self.sms.live(), self.sms.object_bytes())
            + bytes(self.kps.live(), self.kps.object_bytes())
            + bytes(self.vcpus.live(), self.vcpus.object_bytes())
            + bytes(self.port_nodes.live().saturating_sub(1), self.port_nodes.object_bytes())
    }
}
