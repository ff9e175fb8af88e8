from vlrl.cli.main import app

app()
