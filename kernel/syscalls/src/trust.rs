//! Our own call about speculation: trust_group (70).

use abi::{Status, call};
use objects::Cpu;
use sync::Token;

use crate::authority::{caller_ref, domain_ref};
use crate::{Outcome, Words};

/// 70: sel = a domain, RSI = its trust group. The root domain alone decides who trusts whom.
pub fn trust_group(cpu: &mut Cpu, token: &Token, words: Words) -> Outcome {
    let [first, group, ..] = words;
    if !caller_ref(cpu, token)?.trust.privileged {
        return Err(Status::BadCap);
    }
    let pd = domain_ref(cpu, token, call::value(first))?;
    pd.set_trust_group(group);
    Ok(Status::Success.into())
}
