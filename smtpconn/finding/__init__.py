"""From a mail domain to the servers that take its mail, and to what each of them must prove.

The records are values (`records`), the decisions are pure functions over them (`exchangers`, `services`, `tlsa`,
`trust`), and only `lookups` and `domain` ask anybody.
"""
