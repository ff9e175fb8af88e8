from vlrl.report.page import serve_report, write_report

__all__ = ["serve_report", "write_report"]
