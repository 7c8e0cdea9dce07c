# Holds unit files (a JSON list of texts on stdin) against a JSON Schema (a file); prints for each the list of what is wrong and where.
import json
import sys
import tomllib

import jsonschema

with open(sys.argv[1]) as file:
    schema = json.load(file)
jsonschema.Draft202012Validator.check_schema(schema)
validator = jsonschema.Draft202012Validator(schema)
found = [
    [".".join(map(str, error.absolute_path)) + ": " + error.message for error in validator.iter_errors(tomllib.loads(text))]
    for text in json.load(sys.stdin)
]
json.dump(found, sys.stdout)
