"""Account documents as stores keep them: read strictly, one sentence when one is wrong."""

from __future__ import annotations

from pydantic import ValidationError

from engine.model.account import Account


def read_account(account_id: str, document: object) -> Account:
    """Turn the stored ``document`` of ``account_id`` into an account.

    Raises:
        ValueError: it is no valid account; the text is one sentence without any value of the
            document (it may be a secret).
    """
    try:
        account = Account.model_validate(document)
    except ValidationError as error:
        raise ValueError(_sentence(error)) from None
    if account.id != account_id:
        raise ValueError(f"the document is stored as {account_id} but names itself {account.id}")
    return account


def _sentence(error: ValidationError) -> str:
    first, *others = error.errors(include_url=False, include_input=False, include_context=False)
    where = ".".join(str(part) for part in first["loc"]) or "the document"
    more = f" (and {len(others)} more)" if others else ""
    return f"{where}: {first['msg']}{more}"
