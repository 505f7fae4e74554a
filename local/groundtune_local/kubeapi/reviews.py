"""Access reviews: whoever holds the token may do everything."""

from __future__ import annotations

from groundtune_local.kubeapi.objects import Obj

USER = "groundtune-local"


def review(plural: str, body: Obj) -> Obj:
    """The answer to a self subject review of any kind."""
    if plural == "selfsubjectaccessreviews":
        status: Obj = {"allowed": True, "reason": "the local control plane does not restrict its one user"}
    elif plural == "selfsubjectrulesreviews":
        everything = {"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}
        paths = {"verbs": ["*"], "nonResourceURLs": ["*"]}
        status = {"resourceRules": [everything], "nonResourceRules": [paths], "incomplete": False}
    else:
        status = {"userInfo": {"username": USER, "groups": ["system:authenticated", "system:masters"]}}
    return {**body, "status": status}
