"""Every domain-separation label, once (protocol §1, §4, §8, §10). A label is never used for two purposes."""

from __future__ import annotations

from typing import Final

# Signatures (protocol §1, `SIG`)
SIG_M2: Final = b"MessageApp v2, server key offer (M2)"
SIG_M3: Final = b"MessageApp v2, user login (M3)"
SIG_C2: Final = b"MessageApp v2, chat key offer (C2)"
SIG_C3: Final = b"MessageApp v2, chat key (C3)"
SIG_PREKEY: Final = b"MessageApp v2, prekey"
SIG_KEY_CHANGE: Final = b"MessageApp v2, key change"
SIG_NEW_KEY: Final = b"MessageApp v2, new key"
SIG_LOG_KEY: Final = b"MessageApp v2, log key"

# Hashes
IDENTITY: Final = b"MessageApp v2 identity"
TH_M2: Final = b"MessageApp v2 TH-M2"
TH_E: Final = b"MessageApp v2 TH-E"
TH_M3: Final = b"MessageApp v2 TH-M3"
TH_C2: Final = b"MessageApp v2 TH-C2"
TH_CE: Final = b"MessageApp v2 TH-CE"
TH_C3: Final = b"MessageApp v2 TH-C3"
CHAT_AD: Final = b"MessageApp v2 chat ad"
SAS_COMMIT: Final = b"MessageApp v2 sas"
JOIN: Final = b"MessageApp v2 join"

# HKDF-Extract salts, followed by u16 suite
EXTRACT_LOGIN: Final = b"MessageApp v2 extract"
EXTRACT_CHAT: Final = b"MessageApp v2 chat extract"
RATCHET_ROOT: Final = b"MessageApp v2 ratchet"
EXTRACT_INVITE: Final = b"MessageApp v2 invite"
EXTRACT_BACKUP: Final = b"MessageApp v2 backup"

# HKDF-Expand (`XL`, behind "msgapp2 ")
M3_AUTH: Final = b"m3 auth"
MASTER: Final = b"master"
C2S_TRAFFIC: Final = b"c2s traffic"
S2C_TRAFFIC: Final = b"s2c traffic"
KEY: Final = b"key"
TRAFFIC_UPDATE: Final = b"traffic upd"
SESSION_ID: Final = b"session id"
EXPORTER: Final = b"exporter"
C3_AUTH: Final = b"c3 auth"
C4: Final = b"c4"
CHAT_ROOT: Final = b"chat root"
CHAT_ID: Final = b"chat id"
CHAT_EXPORTER: Final = b"chat exporter"
MESSAGE: Final = b"msg"
SAS: Final = b"sas"
INVITE_ID: Final = b"invite id"
INVITE_KEY: Final = b"invite key"
BACKUP_KEY: Final = b"backup key"

# Encapsulation
OAEP_TEMP_PUB: Final = b"MessageApp v2 TempPub"
