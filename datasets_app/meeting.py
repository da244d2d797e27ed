"""Meeting a Label Studio: the short task that tries a connection, and the making of one without a hand."""

from datasets_app.labelstudio import Client, LabelStudioError, Trouble
from datasets_app.models import LabelStudioServer
from datasets_app.services import labelstudio as services
from finetune_site.lib.label_studio import EMAIL, mint_token
from finetune_site.lib.sealing import UnsealError


def meet(pk: int) -> None:
    """Try a server's address and token, and keep in words how it went."""
    server = LabelStudioServer.objects.filter(pk=pk).first()
    if server is None:
        return
    try:
        with Client(server.url, server.token) as client:
            account = client.account()
    except UnsealError:
        services.note_check(server, problem="The token cannot be read: enter it again.")
    except LabelStudioError as error:
        services.note_check(server, problem=str(error))
    else:
        services.note_check(server, account=account.email, version=account.version)


def connect(
    *,
    name: str,
    url: str,
    password: str,
    browser_url: str = "",
    portal_url: str = "",
    hook_url: str = "",
    email: str = EMAIL,
    allows_import: bool = False,
) -> LabelStudioServer:
    """Register a server whose login we have, with a token minted there unless the one we have still works."""
    server = LabelStudioServer.objects.filter(name=name).first() or LabelStudioServer(name=name)
    server.url, server.browser_url, server.portal_url, server.hook_url = url, browser_url, portal_url, hook_url
    server.allows_import = allows_import
    if not _has_token_that_works(server):
        server.token = mint_token(url, password, email)
    server.save()
    meet(server.pk)
    return LabelStudioServer.objects.get(pk=server.pk)


def _has_token_that_works(server: LabelStudioServer) -> bool:
    try:
        with Client(server.url, server.token) as client:
            client.account()
    except UnsealError:
        return False
    except LabelStudioError as error:
        if error.trouble == Trouble.TOKEN:
            return False
        raise
    return True
