module samovar.dev/tests/guests/go

go 1.24
